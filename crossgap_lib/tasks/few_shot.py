"""Few-shot classification: every method on the same draws, with and without a projection (Reevaluating, Sec. 4.3).

``shots`` pictures of each class are drawn from a training part, parameters are chosen on a validation part, and a
held-out part is classified (``shots.py``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics import answered_rightly
from crossgap_lib.projection.linear import Projection
from crossgap_lib.tasks import classifiers
from crossgap_lib.tasks.pairs import as_rows, class_prompts
from crossgap_lib.tasks.shots import FewShotSplit, draw_support

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

IMAGE_ONLY, WITH_PROMPTS, SUPPORT_ALONE = "image only", "with prompts", "support alone"
SHOTS = (1, 2, 4, 8, 16)
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (1.0, 5.5, 20.0)
_SMALL = 10**7  # test pictures x support: below, more threads wait for each other longer than they work


# ---------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """A classifier, what it reads beside images, and the parameters among which validation pictures choose.

    Attributes:
        scores: a function of ``classifiers``; None for zero-shot classification alone.
        setting: IMAGE_ONLY; WITH_PROMPTS: the scores are zero-shot + alpha * ``scores``, alpha from the grid;
            SUPPORT_ALONE: methods that read texts, without the zero-shot scores.
        reads: "", "prompts" or "texts": what ``scores`` takes after the queries.
        grid: parameter -> values to choose from, the first best one wins. One value each leaves nothing to choose.
        zero_shot_projected: the zero-shot scores are those of the projected images, too, where images are projected.
    """

    name: str
    scores: Callable[..., np.ndarray] | None
    setting: str = IMAGE_ONLY
    reads: str = ""
    grid: Mapping[str, Sequence] = field(default_factory=dict)
    zero_shot_projected: bool = False


def image_only_methods(
    *, covariance: str = "empirical-bayes", regularisation: Sequence[float] = (1.0, 10.0, 100.0)
) -> tuple[Method, ...]:
    """Prototype and LDA (Reevaluating, Table 2) and a linear probe, whose C is chosen from ``regularisation``."""
    return (
        Method("Prototype", classifiers.prototype),
        Method("LDA", classifiers.lda, grid={"covariance": (covariance,)}),
        Method("Linear probe", classifiers.linear_probe, grid={"c": regularisation}),
    )


def prompt_methods(
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    tip_x_gammas: Sequence[float] = (0.3, 3.0),
    ape_gammas: Sequence[float] = (0.0, 0.2),
    ape_shares: Sequence[float] = (0.75,),
    ape_weights: Sequence[tuple[float, float]] = ((0.7, 0.3),),
    covariance: str = "empirical-bayes",
) -> tuple[Method, ...]:
    """The methods of Reevaluating, Fig. 6, each with the grid it chooses from.

    Zero-shot scores are those of native images. So ``alphas=(1.0,)`` is not what the paper's code does on projected
    images; ``one_to_one`` has both.
    """
    cache = {"alpha": alphas, "beta": betas}
    ape = cache | {"gamma": ape_gammas, "share": ape_shares, "weights": ape_weights}
    return (
        Method("Zero-shot", None, WITH_PROMPTS),
        Method("Prototype", classifiers.prototype, WITH_PROMPTS, grid={"alpha": alphas}),
        Method("LDA", classifiers.lda, WITH_PROMPTS, grid={"alpha": alphas, "covariance": (covariance,)}),
        Method("Tip-Adapter", classifiers.tip_adapter, WITH_PROMPTS, grid=cache),
        Method("Tip-X", classifiers.tip_x, WITH_PROMPTS, "prompts", cache | {"gamma": tip_x_gammas}),
        Method("APE", classifiers.ape, WITH_PROMPTS, "prompts", ape),
        Method("CODER", classifiers.coder, WITH_PROMPTS, "texts", cache),
    )


def one_to_one() -> tuple[Method, ...]:
    """Prototypes and prompts weighed one to one without any choice, in two readings that differ on projected images.

    The paper projects the images that prototypes are compared with. Its released code (``prototype_classify``) takes
    the zero-shot scores from the projected images as well.
    """
    grid = {"alpha": (1.0,)}
    return (
        Method("Prototype 1:1", classifiers.prototype, WITH_PROMPTS, grid=grid),
        Method("Prototype 1:1, as released", classifiers.prototype, WITH_PROMPTS, grid=grid, zero_shot_projected=True),
    )


def support_alone(methods: Iterable[Method]) -> tuple[Method, ...]:
    """The same methods without zero-shot scores: what the few pictures say by themselves, compared as each compares.

    Where zero-shot is good it hides what Reevaluating's Fig. 6 is about: whether to compare images through texts.
    """
    return tuple(
        replace(m, setting=SUPPORT_ALONE, grid={name: v for name, v in m.grid.items() if name != "alpha"})
        for m in methods
        if m.scores
    )


def class_texts(model: "DualEncoder", images: Embeddings, templates: Sequence[str]) -> Embeddings:
    """Every template filled with every class name, labelled by class: the texts that CODER compares images with.

    Raises:
        CrossgapError: no templates, or one without a place for the name.
    """
    if not templates:
        raise CrossgapError("CODER needs at least one template to make texts of.")
    sets = [class_prompts(model, images, template) for template in templates]
    return Embeddings(
        torch.cat([e.features for e in sets]),
        labels=np.concatenate([e.labels for e in sets]),
        class_names=images.class_names,
        modality="text",
        texts=np.concatenate([e.texts for e in sets]),
    )


# ---------------------------------------------------------------- answers


def with_pca(method: str, projected: bool = True) -> str:
    """The name of a method on projected images, or not, as in the papers' tables: "LDA + PCA", "LDA"."""
    return f"{method} + PCA" if projected else method


@dataclass(frozen=True, eq=False)
class FewShotRun:
    """Which test pictures each method classified rightly.

    Attributes:
        right: (setting, method, shots) -> bool (seeds, n); a method on projected images is named by ``with_pca``.
        choices: what was chosen on validation pictures, a row for each draw: setting, method, shots, seed, validation
            (accuracy in percent), and the parameters.
    """

    right: dict[tuple[str, str, int], np.ndarray]
    choices: pd.DataFrame

    @property
    def methods(self) -> dict[str, list[str]]:
        """The names of the methods of each setting."""
        names = dict.fromkeys((setting, name) for setting, name, _ in self.right)
        return {setting: [name for where, name in names if where == setting] for setting, _ in names}

    def share(self, setting: str, method: str, shots: int) -> np.ndarray:
        """(n,) how often each test picture was classified rightly, over seeds."""
        return self.right[setting, method, shots].mean(axis=0)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """One model's features, projected or not, ready for the classifiers."""

    train: np.ndarray
    labels: np.ndarray  # (n,) of the training pictures, 0 .. c - 1
    queries: dict[str, np.ndarray]  # "validation", "test"
    targets: dict[str, np.ndarray]
    zero_shot: dict[str, tuple[np.ndarray, np.ndarray]]  # (n, c) each: native, projected; empty without prompts
    reads: dict[str, tuple[np.ndarray, ...]]


def _arrays(split: FewShotSplit, projection: Projection | None) -> _Arrays:
    view = (lambda e: as_rows(projection(e))) if projection else as_rows
    asked, prompts = {"validation": split.validation, "test": split.test}, split.prompt_rows()
    texts = prompts if split.texts is None else as_rows(split.texts)
    train = split.train[np.argsort(split.train.ids)]  # so that the draws do not depend on the order of the rows
    zero_shot = lambda e: tuple(classifiers.zero_shot(rows, prompts) for rows in (as_rows(e), view(e)))  # noqa: E731
    return _Arrays(
        view(train),
        split.targets(train),
        {name: view(e) for name, e in asked.items()},
        {name: split.targets(e) for name, e in asked.items()},
        {} if prompts is None else {name: zero_shot(e) for name, e in asked.items()},
        {"": (), "prompts": (prompts,), "texts": (texts,)},
    )


def few_shot(
    split: FewShotSplit,
    methods: Iterable[Method],
    *,
    shots: Iterable[int] = SHOTS,
    seeds: Iterable[int] = range(5),
    projection: Projection | None = None,
) -> FewShotRun:
    """Every method on every draw, natively and, with a ``projection``, on projected images.

    The projection maps images alone: support, validation and test pictures. Prompts stay native, and so do the
    zero-shot scores that are added to, unless the method says otherwise. A picture is classified rightly where its
    class alone has the highest score, so a tie counts as wrong (``metrics.answered_rightly``). The draws depend on
    seeds and ids, not on the order of the rows.

    Raises:
        CrossgapError: nothing to run, methods that need prompts where there are none, or too few training pictures of
            a class.
    """
    methods, shots, seeds = list(methods), list(shots), list(seeds)
    if not (methods and shots and seeds):
        raise CrossgapError("Few-shot classification needs a method, a number of shots and a seed.")
    if split.prompts is None and (needy := [m.name for m in methods if m.setting != IMAGE_ONLY]):
        raise CrossgapError(f"{', '.join(needy)} need class prompts, and there are none.")
    small = len(split.test) * len(split.classes) * max(shots) < _SMALL
    right, choices = {}, []
    with threadpool_limits(limits=1 if small else None):
        for view in (None, projection) if projection else (None,):
            found, chosen = _one_view(_arrays(split, view), view is not None, methods, shots, seeds)
            right, choices = right | found, choices + chosen
    return FewShotRun(right, pd.DataFrame(choices))


def _one_view(
    arrays: _Arrays, projected: bool, methods: Sequence[Method], shots: Sequence[int], seeds: Sequence[int]
) -> tuple[dict, list[dict]]:
    """``FewShotRun.right`` and the rows of its choices; zero-shot alone has nothing to project."""
    methods = [m for m in methods if m.scores or not projected]
    named = [(m, m.setting, with_pca(m.name, projected)) for m in methods]
    right, choices = {(setting, name, k): [] for (_, setting, name), k in product(named, shots)}, []
    for k, seed in product(shots, seeds):
        draw = _Draw(arrays, draw_support(arrays.labels, k, seed).ravel())
        for method, setting, name in named:
            hits, chosen = _answers(method, draw)
            right[setting, name, k].append(hits)
            choices.append({"setting": setting, "method": name, "shots": k, "seed": seed} | chosen)
    return {key: np.stack(hits) for key, hits in right.items()}, choices


class _Draw:
    """One support: what it says of each part, worked out once for all settings that ask."""

    def __init__(self, arrays: _Arrays, rows: np.ndarray):
        self.arrays = arrays
        self._support, self._labels = arrays.train[rows], arrays.labels[rows]
        self._known: dict[tuple, np.ndarray] = {}

    def scores(self, method: Method, part: str, setting: dict) -> np.ndarray | float:
        if method.scores is None:
            return 0.0
        key = (method.scores, part, *sorted(setting.items()))
        if key not in self._known:
            read = (self._support, self._labels, self.arrays.queries[part], *self.arrays.reads[method.reads])
            self._known[key] = method.scores(*read, **setting)
        return self._known[key]

    def hits(self, method: Method, part: str, setting: dict, alpha: float) -> np.ndarray:
        """Which pictures of the part are classified rightly, (n,); ties count as wrong."""
        base = self.arrays.zero_shot[part][method.zero_shot_projected] if method.setting == WITH_PROMPTS else 0.0
        return answered_rightly(base + alpha * self.scores(method, part, setting), self.arrays.targets[part])


def _answers(method: Method, draw: _Draw) -> tuple[np.ndarray, dict]:
    """(which test pictures are classified rightly (n,), what was chosen)."""
    settings = [dict(zip(method.grid, values, strict=True)) for values in product(*method.grid.values())]
    chosen, accuracy = settings[0], np.nan
    if len(settings) > 1:
        validated = [draw.hits(method, "validation", *_split(s)).mean() for s in settings]
        best = int(np.argmax(validated))  # the first of equal ones
        chosen, accuracy = settings[best], 100 * validated[best]
    return draw.hits(method, "test", *_split(chosen)), {"validation": accuracy} | chosen


def _split(setting: dict) -> tuple[dict, float]:
    """(what the scores take, alpha)."""
    return {name: value for name, value in setting.items() if name != "alpha"}, setting.get("alpha", 1.0)
