"""Few-shot accuracies as rows of ``gain_table``, and what Reevaluating's paper and code report beside them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crossgap_lib.tasks.comparison import gain_table, measured
from crossgap_lib.tasks.few_shot import IMAGE_ONLY, SUPPORT_ALONE, WITH_PROMPTS, FewShotRun, with_pca
from crossgap_lib.tasks.published import counterpart, published

BASELINES = {IMAGE_ONLY: "Prototype", WITH_PROMPTS: "Zero-shot", SUPPORT_ALONE: "Prototype"}


def shot_table(run: FewShotRun, setting: str, methods: Sequence[str], over: str, *, seed: int = 0) -> pd.DataFrame:
    """Accuracy in percent of each method and number of shots, and its gain over the method ``over``.

    Intervals are bootstraps over test pictures of the share of draws in which each was classified rightly: they leave
    the choice of the draws out, of which spread, the standard deviation over draws, tells.

    Columns: setting, shots, over, those of ``gain_table``, spread.
    """
    tables = []
    for k in dict.fromkeys(shots for where, _, shots in run.right if where == setting):
        table = gain_table({name: run.share(setting, name, k) for name in (over, *methods)}, over, seed=seed)
        draws = [100 * run.right[setting, name, k].mean(axis=1) for name in table["method"]]
        spread = [accuracy.std(ddof=1) if len(accuracy) > 1 else np.nan for accuracy in draws]
        tables.append(table.assign(shots=k, spread=spread))
    table = pd.concat(tables, ignore_index=True).assign(setting=setting, over=over)
    first = ["setting", "shots", "over"]
    return table[[*first, *table.columns.drop(first)]]


def few_shot_table(run: FewShotRun, *, seed: int = 0) -> pd.DataFrame:
    """``shot_table`` of every method; the gains are over Zero-shot with prompts, over Prototype without."""
    tables = [shot_table(run, where, methods, BASELINES[where], seed=seed) for where, methods in run.methods.items()]
    return pd.concat(tables, ignore_index=True)


def pca_gains(run: FewShotRun, *, seed: int = 0) -> pd.DataFrame:
    """``shot_table`` of every method on projected images over the same method on images as they are."""
    tables = [pd.DataFrame(columns=["setting", "shots", "over", "method"])]
    for setting, methods in run.methods.items():
        both = [name for name in methods if with_pca(name) in methods]
        tables += [shot_table(run, setting, [with_pca(name)], name, seed=seed) for name in both]
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    return table[table["method"] != table["over"]].reset_index(drop=True)


def published_few_shot(source: str = "reevaluating", table: str = "2") -> pd.DataFrame:
    """Accuracies of Table 2 of Reevaluating (means of 11 data sets), or of its code's logs, methods named as here.

    Columns: model, setting, dataset, shots, method, value.
    """
    rows = published(source=source, table=table)
    parts = rows["dataset"].str.extract(r"(?P<dataset>.+), (?P<shots>\d+)-shot")
    prompted = rows["method"].str.contains(" with prompts")
    rows = rows.assign(
        setting=np.where(prompted, WITH_PROMPTS, IMAGE_ONLY),
        dataset=parts["dataset"],
        shots=parts["shots"].astype(int),
        method=rows["method"].str.replace(" with prompts", "").str.replace(", PCA", " + PCA"),
    )
    return rows[["model", "setting", "dataset", "shots", "method", "value"]]


def published_pca_gains(reported: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What PCA adds in rows of ``published_few_shot``: the mean over data sets, with an interval where there are some.

    Columns: model, setting, over (the method that PCA is added to), shots, n (data sets), gain, gain low, gain high.
    """
    on = ["model", "setting", "dataset", "over", "shots"]
    rows = reported.assign(over=reported["method"].str.removesuffix(" + PCA"))
    with_it, without = (rows[(rows["method"] != rows["over"]) == projected] for projected in (True, False))
    both = with_it.merge(without, on=on, suffixes=("", " without"))
    gains = (both["value"] - both["value without"]).groupby([both[c] for c in on if c != "dataset"], sort=False)
    found = [(*key, len(g), *measured(g.to_numpy(), seed=seed, scale=1)[:3]) for key, g in gains]
    table = pd.DataFrame(found, columns=["model", "setting", "over", "shots", "n", "gain", "gain low", "gain high"])
    table.loc[table["n"] == 1, ["gain low", "gain high"]] = np.nan
    return table


def stands_for(spec: str) -> str:
    """The model of Table 2 whose objective a model shares, as ``counterpart`` knows it; "" where there is none."""
    family = counterpart(spec).partition("/")[0]
    return {"DINOv3 ViT-L": "DINOv2 ViT-B"}.get(family, family)
