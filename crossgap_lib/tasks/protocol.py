"""What the papers say, what their released codes do where they differ, and what is taken here."""

from dataclasses import dataclass

import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.errors import CrossgapError, did_you_mean


@dataclass(frozen=True)
class Protocol:
    """The choices that change a retrieval or zero-shot number.

    Attributes:
        self_match: of ``metrics.retrieval``: how the query is counted that was taken out of its own gallery.
        first_captions: of ``tasks.texts_to_search``: whether other pictures' first captions are in the gallery.
        caption_split: split of Flickr30k and COCO (Karpathy).
        crop_queries: whether ROxford and RParis queries are cropped to their box.
        plain_ovi_prompts: whether OVI inverts "a photo of a {}" where the baseline has a data set's own prompts.
    """

    name: str
    self_match: str
    first_captions: str
    caption_split: str
    crop_queries: bool
    plain_ovi_prompts: bool

    def rows(self) -> dict[str, str]:
        """Question -> answer."""
        counted = self.self_match == "count"
        return {
            "the query in its own gallery": "removed, but R counts it" if counted else "removed, and not counted in R",
            "mAP@R": "cut at R, divided by R - 1" if counted else "cut at R, divided by R",
            "R-Precision": "cut at R - 1, divided by R - 1" if counted else "cut at R, divided by R",
            "a query alone in its class": "keeps AP 0" if counted else "left out",
            "first captions of other pictures": f"{self.first_captions} of the gallery",
            "Flickr30k and COCO": f"Karpathy {self.caption_split}",
            "ROxford and RParis queries": "cropped to their box" if self.crop_queries else "whole pictures",
            "prompts that OVI inverts": "a photo of a {}" if self.plain_ovi_prompts else "those of the baseline",
        }


PROTOCOLS = {
    "paper": Protocol("paper", "remove", "in", "test", crop_queries=True, plain_ovi_prompts=False),
    "released": Protocol("released", "count", "in", "val", crop_queries=False, plain_ovi_prompts=True),
}
_COMMON = {
    "queries and gallery, classification sets": "test pictures against training pictures (Cross the Gap, App. F)",
    "queries and gallery, one set": "every picture against all others",
    "positives": "pictures of the same class; captions of the same picture",
    "metric": "AP over the whole ranked gallery, mean over queries that have a positive",
    "ties": metrics.RANKING,
}


def protocol(name: str) -> Protocol:
    """The protocol called "paper" or "released".

    Raises:
        CrossgapError: another name.
    """
    if name not in PROTOCOLS:
        raise CrossgapError(f"There is no protocol {name!r}.{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_table(used: Protocol) -> pd.DataFrame:
    """Question (the index), the answer in use, and what the paper and its released code say."""
    columns = {"used here": used, "paper": PROTOCOLS["paper"], "released code": PROTOCOLS["released"]}
    table = pd.DataFrame({title: one.rows() for title, one in columns.items()})
    common = pd.DataFrame({"used here": _COMMON}, columns=table.columns).fillna("")
    return pd.concat([table, common]).rename_axis("question")


# Question: (used here, what Reevaluating says, what its released code does); "" where the paper or the code is silent.
_REEVALUATING = {
    "names that span PCA": (
        "ImageNet's 1000 for photographs, all kinds for the drawn world, others by class_names",
        "ImageNet's 1000, whatever the data set (Sec. 3.3)",
        "",
    ),
    "centring before the SVD": (
        "yes; centred=False leaves it out",
        "yes: eigenvectors of a covariance (App. B)",
        "fit_pca does, the README's recipe does not: mAP 73.5 and 70.9 on 500 vectors of the real CLIP ViT-B/32",
    ),
    "texts that span PCA in retrieval": (
        "a photo of a [class], of length one",
        "a photo of [class] (Sec. 3.3)",
        "bare class names, not normalised",
    ),
    "prompts and prototypes, weighed 1:1": (
        "both, by name: Prototype 1:1; Prototype 1:1, as released",
        "images are projected where they are compared with images (Sec. 3.3): zero-shot scores stay native",
        "prototype_classify takes both terms from projected test images",
    ),
    "what weighs prompts and pictures": ("validation pictures, or 1:1", "", "1:1, without validation"),
    "support of Table 1": ("one a draw, for all test pictures", "", "a new one for each test picture"),
    "sharpness of APE, gamma": ("weighs bits, as in APE's code", "", "APE's: base 2, so gamma / ln 2 in nats"),
    "channels of APE, weights": (
        "0.7 and 0.3 for all data sets, others by ape_weights",
        "",
        "APE's: others for each data set",
    ),
}


def reevaluating_table() -> pd.DataFrame:
    """Question (the index) of Reevaluating's experiments, the answer in use, what the paper says and its code does."""
    columns = ["used here", "paper", "released code"]
    return pd.DataFrame.from_dict(_REEVALUATING, orient="index", columns=columns).rename_axis("question")
