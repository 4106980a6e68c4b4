"""What each choice is worth, on the same queries and the same gallery: embeddings in, gains over native features out.

Cross the Gap, App. G (Tables A6 to A10); Reevaluating, Sec. 3.3 and the ablation of Sec. 4.4. Every table has the rows
of ``gain_table``: mAP and gain in percent, 95 % bootstraps over queries, those of the gains paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.large import exact_retrieval
from crossgap_lib.projection.linear import IsoClip, centre, mix, pca_of_prompts
from crossgap_lib.tasks.comparison import gain_table, paired_gain
from crossgap_lib.tasks.methods import ORIGINAL

Pair = tuple[Embeddings, Embeddings]  # queries, gallery


def average_precisions(pairs: Mapping[str, Pair], **options) -> dict[str, np.ndarray]:
    """AP of every query, (n,) for each method.

    Args:
        pairs: method -> (queries, gallery) as that method compares them.
        options: those of ``exact_retrieval``.

    Raises:
        CrossgapError: methods that do not have the same queries.
    """
    values, ids = {}, None
    for method, (queries, gallery) in pairs.items():
        found = exact_retrieval(queries, gallery, **options)
        answered = queries.ids[found.rows]
        ids = answered if ids is None else ids
        if not np.array_equal(ids, answered):
            raise CrossgapError(f"{method!r} does not answer the same queries as the methods before it.")
        values[method] = found.ap
    return values


def retrieval_gains(pairs: Mapping[str, Pair], *, seed: int = 0) -> pd.DataFrame:
    """``gain_table`` of mAP over the native features, which ``pairs`` holds under "Original"."""
    return gain_table(average_precisions(pairs), ORIGINAL, seed=seed)


# ---------------------------------------------------------------- PCA, IsoCLIP, mixing: along a parameter


def component_sweep(
    queries: Embeddings,
    gallery: Embeddings,
    vocabularies: Mapping[str, Embeddings],
    counts: Iterable[int],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Retrieval after PCA of prompts, by vocabulary, number of components, and centred or not (Reevaluating, Sec. 3.3).

    Args:
        vocabularies: name -> prompts (n, d). Numbers of components above their rank are left out; the rank itself
            (all there is) is always tried.

    Returns:
        Rows of ``gain_table`` with the columns vocabulary, centred, components, explained (share of the prompts'
        variance) in the place of method and best.
    """
    native, counts, rows = {ORIGINAL: (queries, gallery)}, set(counts), []
    for (name, prompts), centred in product(vocabularies.items(), (True, False)):
        everything = pca_of_prompts(prompts, centred=centred)
        rank = len(everything.variances)
        for k in sorted({k for k in counts if k < rank} | {rank}):
            project = pca_of_prompts(prompts, k, centred=centred)
            table = retrieval_gains(native | {"PCA": (project(queries), project(gallery))}, seed=seed)
            facts = {"vocabulary": name, "centred": centred, "components": k, "explained": project.explained}
            rows.append(table.iloc[1:].assign(**facts))
    return pd.concat(rows, ignore_index=True).drop(columns=["method", "best"])


def band_sweep(
    queries: Embeddings,
    gallery: Embeddings,
    iso: IsoClip,
    before: Pair,
    tops: Iterable[int],
    bottoms: Iterable[int],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Retrieval by IsoCLIP, by how many of the strongest and weakest directions are left out.

    Args:
        before: the same queries and gallery before their projection.

    Returns:
        Rows of ``gain_table`` with the columns top, bottom and kept in the place of method and best. Bands of which
        nothing is left are not in it.
    """
    r, rows = len(iso.spectrum), []
    for top, bottom in product(tops, bottoms):
        if top + bottom >= r:
            continue
        mapped = tuple(iso(e, top=top, bottom=bottom) for e in before)
        table = retrieval_gains({ORIGINAL: (queries, gallery), "IsoCLIP": mapped}, seed=seed)
        rows.append(table.iloc[1:].assign(top=top, bottom=bottom, kept=r - top - bottom))
    return pd.concat(rows, ignore_index=True).drop(columns=["method", "best"])


def mixing_sweep(
    queries: Embeddings, inverted: Embeddings, gallery: Embeddings, alphas: Iterable[float], *, seed: int = 0
) -> pd.DataFrame:
    """Retrieval by alpha * OTI + (1 - alpha) * native (Cross the Gap, Eq. 9, Table A10): ``gain_table`` and alpha.

    alpha 0 is the native baseline and always there.
    """
    alphas = sorted({0.0, *alphas})
    pairs = {str(a): (mix(queries, inverted, a), gallery) for a in alphas}
    return gain_table(average_precisions(pairs), "0.0", seed=seed).assign(alpha=alphas)


# ---------------------------------------------------------------- what the task is


def factor_tasks(
    pairs: Mapping[str, Pair], factors: Mapping[str, tuple[Sequence, Sequence]], *, seed: int = 0
) -> pd.DataFrame:
    """Retrieval by something other than the main concept (Reevaluating, Sec. 4.4, ablation on BDD100k).

    Args:
        pairs: method -> (queries, gallery), "Original" among them; the labels they carry do not matter.
        factors: task -> its values for the queries (n,) and for the gallery (g,): equal values are relevant.

    Returns:
        Rows of ``gain_table`` with the column task added.
    """
    parts = []
    for task, (of_queries, of_gallery) in factors.items():
        _, codes = np.unique([*of_queries, *of_gallery], return_inverse=True)
        q, g = codes[: len(of_queries)], codes[len(of_queries) :]
        relabelled = {m: (_labelled(a, q), _labelled(b, g)) for m, (a, b) in pairs.items()}
        parts.append(retrieval_gains(relabelled, seed=seed).assign(task=task))
    return pd.concat(parts, ignore_index=True)


def _labelled(e: Embeddings, labels: np.ndarray) -> Embeddings:
    return replace(e, labels=labels, class_names=())


# ---------------------------------------------------------------- vocabularies


def tokenizer_words(model, n: int, *, exclude: Iterable[str] = (), seed: int = 0) -> list[str]:
    """n whole words of the model's vocabulary, drawn with ``seed``: letters alone, three or more.

    Raises:
        CrossgapError: a tokenizer that shows no vocabulary, or fewer words than that.
    """
    tokenizer = getattr(model.tokenizer, "tokenizer", model.tokenizer)  # open_clip wraps Hugging Face's
    entries = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else getattr(tokenizer, "encoder", {})
    words = _whole_words(entries) - set(exclude)
    if len(words) < n:
        raise CrossgapError(f"The tokenizer of {model.name} shows {len(words)} words to draw {n} from.")
    return np.random.default_rng(seed).permutation(sorted(words))[:n].tolist()


def _whole_words(entries: Iterable[str]) -> set[str]:
    """CLIP's BPE ends whole words with </w>; SentencePiece begins them with a mark; word lists mark nothing."""
    for begin, end in (("", "</w>"), ("\u2581", ""), ("", "")):
        marked = {e for e in entries if e.startswith(begin) and e.endswith(end)} if begin or end else set(entries)
        words = {e.removeprefix(begin).removesuffix(end) for e in marked}
        if found := {w for w in words if len(w) > 2 and w.isascii() and w.isalpha() and w.islower()}:
            return found
    return set()


# ---------------------------------------------------------------- gain against cost


def pareto_table(values: Mapping[str, np.ndarray], seconds: Mapping[str, float], *, seed: int = 0) -> pd.DataFrame:
    """``gain_table`` over "Original" with what a query costs, and whether another method is better at no more cost.

    Args:
        values: method -> (n,) AP of every query.
        seconds: method -> seconds a query, measured by the caller around each method.

    Adds: seconds, and non-dominated: no other method costs no more and retrieves better (of two with the same mAP the
    cheaper one stays).

    Raises:
        CrossgapError: a method without a cost, or a cost that is not positive.
    """
    if missing := set(values) - set(seconds):
        raise CrossgapError(f"Nobody measured what {', '.join(sorted(missing))} costs.")
    if not all(np.isfinite(seconds[m]) and seconds[m] > 0 for m in values):
        raise CrossgapError("The cost of every method must be a positive number of seconds a query.")
    table = gain_table(values, ORIGINAL, seed=seed)
    table["seconds"] = [seconds[m] for m in table["method"]]
    order = table.sort_values(["seconds", "value"], ascending=[True, False]).index
    best = table.loc[order, "value"].cummax().shift(fill_value=-np.inf)
    return table.assign(**{"non-dominated": (table.loc[order, "value"] > best).reindex(table.index)})


# ---------------------------------------------------------------- a dial


def gains_of(tables: Mapping[float, pd.DataFrame], name: str) -> pd.DataFrame:
    """Tables of gains, one for each setting of a dial, in one: the column ``name`` holds the setting."""
    return pd.concat([table.assign(**{name: value}) for value, table in tables.items()], ignore_index=True)


def sign_change(table: pd.DataFrame, name: str, method: str) -> str:
    """Whether the gain of ``method`` surely changes sign along ``name``, in words."""
    rows = table[(table["method"] == method) & table["sure"]]
    up, down = (sorted(rows.loc[rows["gain"] * sign > 0, name]) for sign in (1, -1))
    if up and down:
        return f"yes: a gain at {_listed(up)}, a loss at {_listed(down)}"
    return f"no: a sure {'gain' if up else 'loss'} at {_listed(up or down)}" if up or down else "no: never sure"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def centred_pair(queries: Embeddings, gallery: Embeddings) -> Pair:
    """Both without the mean of the gallery, which is known before any query is."""
    return centre(queries, gallery), centre(gallery)


def sure_difference(values: Mapping[str, np.ndarray], one: str, other: str, *, seed: int = 0) -> str:
    """How far ``one`` is above ``other``, in percent points with its paired interval, in words."""
    mean, low, high = (100 * v for v in paired_gain(values[one], values[other], seed=seed))
    sure = "" if low > 0 or high < 0 else ", not sure"
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}{sure})"
