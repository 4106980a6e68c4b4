"""What the papers report, to stand beside what is measured."""

import pandas as pd

from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.paths import DATA


def published(**where: str) -> pd.DataFrame:
    """Rows of the papers' tables (data/published/published.csv) whose columns equal ``where``.

    Columns: source, table, model, method, dataset, metric, value (percent, where the papers give percent).
    """
    table = pd.read_csv(DATA / "published" / "published.csv", dtype={"table": str}, keep_default_na=False)
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


def counterpart(spec: str) -> str:
    """What the papers call the model ``spec``, or the model that a mini stands in for; "" where there is none."""
    return (_NAMES | _STAND_INS).get(spec.replace("-quickgelu", ""), "")


def paper_data(spec: str, table: pd.DataFrame) -> str:
    """What a paper's table (rows of ``published``) calls the data set ``spec``; "Average" for what it does not have."""
    named = SETS.get(spec.partition(":")[0])
    known = set(table["dataset"])
    return next((name for name in (named.published if named else ()) if name in known), "Average")
