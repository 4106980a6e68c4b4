"""How numbers are counted where Cross the Gap and its released code differ: both settings, by name."""

from dataclasses import dataclass

import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.errors import CrossgapError, did_you_mean


@dataclass(frozen=True)
class Protocol:
    """The choices that change a retrieval or zero-shot number.

    Attributes:
        self_match: of ``metrics.retrieval``: whether R counts the query that was taken out of its own gallery.
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
        removed = {"remove": "removed, and not counted in R", "count": "removed, but counted in R", "keep": "kept"}
        return {
            "the query in its own gallery": removed[self.self_match],
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
