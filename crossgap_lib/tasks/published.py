"""What the papers report, to stand beside what is measured."""

from collections.abc import Sequence

import pandas as pd

from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.paths import DATA


def published(**where: str) -> pd.DataFrame:
    """Rows of the papers' tables (data/published/*.csv) whose columns equal ``where``.

    Source "real-clip" holds no paper's numbers but what was measured on vectors of real CLIP models, which the project
    does not ship; its column table says where they come from.

    Columns: source, table, model, method, dataset, metric, value (percent, where the papers give percent).
    """
    files = sorted((DATA / "published").glob("*.csv"))
    table = pd.concat([pd.read_csv(file, dtype={"table": str}, keep_default_na=False) for file in files])
    table["value"] = table["value"].astype(float)
    for column, value in where.items():
        table = table[table[column] == value]
    return table.reset_index(drop=True)


# What the papers call a model, by the paper. A mini stands in for the model whose objective it shares.
_CLIP_B, _CLIP_L = "CLIP ViT-B/32", "CLIP ViT-L/14"
_NAMES = {
    "ViT-B-32,openai": _CLIP_B,
    "ViT-L-14,openai": _CLIP_L,
    "ViT-B-16,openai": "CLIP ViT-B/16",
    "ViT-B-32,datacomp_xl_s13b_b90k": "OpenCLIP ViT-B/32",
    "ViT-L-14,datacomp_xl_s13b_b90k": "OpenCLIP ViT-L/14",
    "ViT-B-16-SigLIP,webli": "SigLIP ViT-B/16",
    "ViT-B-16-SigLIP2,webli": "SigLIP2 ViT-B/16",
    "timm:vit_base_patch14_dinov2.lvd142m": "DINOv2 ViT-B/14",
    "timm:vit_large_patch16_dinov3.lvd1689m": "DINOv3 ViT-L/16",
}
_STAND_INS = {
    "mini-clip": _CLIP_B,
    "mini-siglip": "SigLIP ViT-B/16",
    "mini-slip": "SLIP ViT-B/16",
    "mini-siglip2": "SigLIP2 ViT-B/16",
    "mini-dino": "DINOv3 ViT-L/16",
    "mini-clip-tau1": "CLIP ViT-B/32 fine-tuned, temperature 1 (no gap)",
}


def counterpart(spec: str, among: Sequence[str] = ()) -> str:
    """What the papers call the model ``spec``, or the model that a mini stands in for; "" where there is none.

    ``among``: the models of one table. Where it lacks that model, it is the first of them that differs in its patches
    alone: Table 1 of Reevaluating has CLIP ViT-B/16 where Table 3 has CLIP ViT-B/32.
    """
    name = (_NAMES | _STAND_INS).get(spec.replace("-quickgelu", ""), "")
    if not among or name in among:
        return name
    family = name.partition("/")[0]
    return next((other for other in among if other.partition("/")[0] == family), "")


def _paper_data(spec: str, table: pd.DataFrame) -> str:
    """What a paper's table (rows of ``published``) calls the data set ``spec``; "Average" for what it does not have."""
    known, kind = set(table["dataset"]), spec.removeprefix("world:").partition(":")[0]
    if kind == "dogs-vs-cats" and "Dogs vs Cats" in known:  # drawn or photographed
        return "Dogs vs Cats"
    named = SETS.get(kind)
    return next((name for name in (named.published if named else ()) if name in known), "Average")


def beside_published(found: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Measured rows with what the papers report of the same data set, on the model that each one stands in for.

    Args:
        found: rows of ``gain_table`` over "Original", with the columns model and data (specs).
        reported: rows of ``published``, whose methods are named as in ``found``. A data set that they do not have
            stands beside their "Average".

    Returns:
        The rows with the columns paper's model, paper's data and published; NaN where nothing is published.
    """
    data = [_paper_data(spec, reported) for spec in found["data"]]
    models = [
        counterpart(spec, tuple(reported.loc[reported["dataset"] == one, "model"]))
        for spec, one in zip(found["model"], data, strict=True)
    ]
    keys = ["paper's model", "paper's data"]
    known = reported.rename(columns=dict(zip(("model", "dataset", "value"), (*keys, "published"), strict=True)))
    named = found.assign(**dict(zip(keys, (models, data), strict=True)))
    on = [*keys, "method"]
    return named.merge(known[[*on, "published"]], on=on, how="left", validate="many_to_one")
