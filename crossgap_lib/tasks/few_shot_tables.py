"""Few-shot accuracies as tables: intervals, paired gains, and Reevaluating's Table 2 beside them."""

from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np
import pandas as pd

from crossgap_lib.projection.linear import Projection
from crossgap_lib.tasks.comparison import gain_table, paired_gain
from crossgap_lib.tasks.few_shot import (
    IMAGE_ONLY,
    SUPPORT_ALONE,
    WITH_PROMPTS,
    FewShotRun,
    few_shot,
    image_only_methods,
)
from crossgap_lib.tasks.published import counterpart, published
from crossgap_lib.tasks.shots import FewShotSplit

BASELINES = {IMAGE_ONLY: "Prototype", WITH_PROMPTS: "Zero-shot", SUPPORT_ALONE: "Prototype"}


def with_pca(method: str, projected: bool) -> str:
    """The name of a method in tables, as in the papers: "LDA", "LDA + PCA"."""
    return f"{method} + PCA" if projected else method


def few_shot_table(run: FewShotRun, *, seed: int = 0) -> pd.DataFrame:
    """Accuracy in percent of every method and number of shots, a row each.

    Columns: setting, shots, classifier, projected, and those of ``gain_table`` (method is classifier or "... + PCA"),
    the gains being over Zero-shot among the methods with prompts, over Prototype among the others; spread (standard
    deviation over draws); PCA gain, PCA gain low, PCA gain high (projected against not). Intervals are bootstraps over
    test pictures of the share of draws in which each was classified rightly: they leave the choice of the draws out.
    """
    cells = dict.fromkeys((setting, k) for setting, _, _, k in run.right)
    return pd.concat([_cell_table(run, setting, k, seed) for setting, k in cells], ignore_index=True)


def _cell_table(run: FewShotRun, setting: str, k: int, seed: int) -> pd.DataFrame:
    """The methods of one setting at one number of shots."""
    keys = [(name, projected) for s, name, projected, shots in run.right if (s, shots) == (setting, k)]
    values = {with_pca(*key): run.share(setting, *key, k) for key in keys}
    baseline = BASELINES[setting] if BASELINES[setting] in values else next(iter(values))
    table = gain_table(values, baseline, seed=seed)
    spreads = [
        100 * run.right[setting, *key, k].mean(axis=1).std(ddof=1) if _draws(run) > 1 else np.nan for key in keys
    ]
    table = table.assign(setting=setting, shots=k, classifier=[n for n, _ in keys], projected=[p for _, p in keys])
    gains = [_pca_gain(values, *key, seed) for key in keys]
    table[["PCA gain", "PCA gain low", "PCA gain high"]] = gains
    first = ["setting", "shots", "classifier", "projected"]
    return table.assign(spread=spreads)[[*first, *(c for c in [*table.columns, "spread"] if c not in first)]]


def _draws(run: FewShotRun) -> int:
    return len(next(iter(run.right.values())))


def _pca_gain(values: Mapping[str, np.ndarray], name: str, projected: bool, seed: int) -> tuple[float, float, float]:
    if not projected:
        return (np.nan,) * 3
    return tuple(100 * v for v in paired_gain(values[with_pca(name, True)], values[name], seed=seed))


def compare_shots(
    run: FewShotRun, setting: str, one: tuple[str, bool], other: tuple[str, bool], *, seed: int = 0
) -> pd.DataFrame:
    """Paired gain in percent of (method, projected) ``one`` over ``other``, for each number of shots.

    Columns: shots, gain, low, high.
    """
    shots = [k for s, name, projected, k in run.right if (s, (name, projected)) == (setting, one)]
    gains = [paired_gain(run.share(setting, *one, k), run.share(setting, *other, k), seed=seed) for k in shots]
    return pd.DataFrame(
        [(k, *(100 * v for v in g)) for k, g in zip(shots, gains, strict=True)],
        columns=["shots", "gain", "low", "high"],
    )


def compare_pca_gains(
    run: FewShotRun, one: tuple[str, int], other: tuple[str, int], *, seed: int = 0
) -> tuple[float, float, float]:
    """How much more PCA adds to (classifier, shots) ``one`` than to ``other``, image only: percent, low, high.

    Paired by test picture, so that the two gains need not be told apart by their own intervals.
    """
    added = [run.share(IMAGE_ONLY, name, True, k) - run.share(IMAGE_ONLY, name, False, k) for name, k in (one, other)]
    return tuple(100 * v for v in paired_gain(*added, seed=seed))


def through_texts(run: FewShotRun, setting: str, projected: bool = False, *, seed: int = 0) -> pd.DataFrame:
    """Tip-X and CODER, which compare images through texts, over APE and LDA, which compare them with images (Fig. 6).

    ``projected``: whether APE and LDA see projected images, and so read the class prompts as well. At one shot LDA has
    nothing to say and is left out. Columns: one, other, setting, projected, shots, gain, low, high.
    """
    parts = []
    for one, other in product(("Tip-X", "CODER"), ("APE", "LDA")):
        table = compare_shots(run, setting, (one, False), (other, projected), seed=seed)
        table = table[table["shots"] > 1] if other == "LDA" else table
        parts.append(table.assign(one=one, other=other, setting=setting, projected=projected))
    names = ["one", "other", "setting", "projected", "shots", "gain", "low", "high"]
    return pd.concat(parts, ignore_index=True)[names]


def along_names(
    questions: Mapping[str, FewShotSplit],
    names: Mapping[str, Projection],
    *,
    shots: int = 1,
    seeds: Iterable[int] = range(5),
) -> pd.DataFrame:
    """Prototype accuracy (percent) for each question, comparing images as they are and along each set of names.

    Columns: asked about, classes, compared along ("everything", "names of ..."), accuracy.
    """
    seeds, rows, methods = list(seeds), [], image_only_methods()[:1]
    for (question, split), (along, view) in product(questions.items(), {"everything": None, **names}.items()):
        run = few_shot(split, methods, shots=[shots], seeds=seeds, projection=view)
        accuracy = 100 * run.share(IMAGE_ONLY, methods[0].name, view is not None, shots).mean()
        rows.append((question, len(split.classes), along if view is None else f"names of {along}", accuracy))
    return pd.DataFrame(rows, columns=["asked about", "classes", "compared along", "accuracy"])


def published_few_shot() -> pd.DataFrame:
    """Table 2 of Reevaluating: model, method, classifier, projected, shots, value (accuracy, mean of 11 data sets)."""
    table = published(source="reevaluating", table="2")
    parts = table["method"].str.partition(" + ")
    shots = table["dataset"].str.extract(r"(\d+)-shot")[0].astype(int)
    table = table.assign(classifier=parts[0], projected=parts[2] == "PCA", shots=shots)
    return table[["model", "method", "classifier", "projected", "shots", "value"]]


def stands_for(spec: str) -> str:
    """The model of Table 2 whose objective a model shares, as ``counterpart`` knows it; "" where there is none."""
    family = counterpart(spec).partition("/")[0]
    return {"DINOv3 ViT-L": "DINOv2 ViT-B"}.get(family, family)


def table_two(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of Table 2, "native (projected)": a row for each model and classifier, a column for each shots.

    ``table``: columns model, classifier, projected, shots, value.
    """
    wide = table.pivot(index=["model", "classifier", "shots"], columns="projected", values="value")
    wide = wide.reindex(columns=[False, True])
    words = [f"{a:.1f}" + ("" if np.isnan(b) else f" ({b:.1f})") for a, b in wide.to_numpy()]
    cells = pd.Series(words, wide.index).unstack("shots")
    return cells.reindex(list(dict.fromkeys(table[["model", "classifier"]].itertuples(index=False, name=None))))
