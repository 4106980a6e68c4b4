"""Verdicts: what a paper claims, what it published, and what is measured here, a row a claim.

A claim is put into numbers before it is judged: the measured quantity lies above a bound, below one, or between two. It
*holds* where its whole 95 % interval lies there, it *does not hold* where the whole interval lies elsewhere, and
otherwise the answer is *not sure*; so it is, too, where an interval has no width, since nothing that varied was seen.
Where several models or tasks were asked, the claim is *split* when it holds for some and not for others.
"""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, nan
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.comparison import Measured, escaped_table

HOLDS, FAILS, SPLIT, UNSURE, UNTESTABLE = "holds", "does not hold", "split", "not sure", "not testable here"
VERDICTS = (HOLDS, FAILS, SPLIT, UNSURE, UNTESTABLE)
_INKS = {HOLDS: "#0072B2", FAILS: "#D55E00", SPLIT: "#8c510a", UNSURE: "#5e6e7e", UNTESTABLE: "#5e6e7e"}
COLUMNS = ("claim", "whose", "published", "here", "over", "effect", "verdict", "figure")


def judge(here: Measured, above: float = -inf, below: float = inf) -> str:
    """The verdict on the claim that the measured quantity lies between ``above`` and ``below``.

    Raises:
        CrossgapError: a claim without a bound, which nothing could contradict.
    """
    if above == -inf and below == inf:
        raise CrossgapError("A claim needs a bound, above or below, by which it can be judged.")
    value, low, high, _ = here
    if not all(map(isfinite, (value, low, high))):
        return UNTESTABLE
    if low == high:
        return UNSURE
    if above < low and high < below:
        return HOLDS
    return FAILS if high < above or low > below else UNSURE


def _together(verdicts: Sequence[str]) -> str:
    """One verdict for several models or tasks; those that could not be asked do not count."""
    asked = set(verdicts) - {UNTESTABLE}
    if {HOLDS, FAILS} <= asked:
        return SPLIT
    return asked.pop() if len(asked) == 1 else UNSURE if asked else UNTESTABLE


class Claims:
    """The verdict table that ends a notebook.

    Args:
        notebook: its name, as its folder of figures is called.
        seen: on what it was measured: model, number of queries and pictures, seed.
    """

    def __init__(self, notebook: str, seen: str):
        self.notebook, self.seen, self.rows = notebook, seen, []

    def add(
        self,
        claim: str,
        whose: str,
        here: Measured | tuple[float, float, float] | Mapping[str, Measured | tuple[float, float, float]],
        *,
        above: float = -inf,
        below: float = inf,
        published: str = "",
        unit: str = "",
        over: str = "queries",
        figure: str = "",
        digits: int = 1,
        otherwise: str = "the parameters of this run do not ask for it",
    ) -> None:
        """Judges a claim and adds its row.

        Args:
            claim: what is claimed, as a sentence without its full stop.
            whose: the paper and its table, figure or section.
            here: what is measured, or part -> what is measured, such as a model or a task; empty if no part is there.
            above, below: where the quantity lies if the claim is true.
            published: the published value with its unit; empty where a paper gives none.
            unit: of the measured value, such as "points of mAP".
            over: what the interval is taken over, such as "300 queries" or "3 training seeds".
            figure: the stem of the figure that shows it.
            otherwise: why the claim can't be tested here, where ``here`` is empty.
        """
        if not here:
            self.untestable(claim, whose, otherwise, published=published, figure=figure)
            return
        parts = {part: Measured(*one) for part, one in (here if isinstance(here, Mapping) else {"": here}).items()}
        verdict = _together([judge(one, above, below) for one in parts.values()])
        effects = [one.effect for one in parts.values() if isfinite(one.effect)]
        signed = "+" if effects or 0 in (above, below) else ""  # of gains and losses
        words = [f"{part} {_spoken(one, digits, signed)}".strip() for part, one in parts.items()]
        alone = next(iter(parts.values())) if len(parts) == 1 else Measured(nan, nan, nan)
        here = f"{'; '.join(words)} {unit}".strip()
        row = {"claim": claim, "whose": whose, "published": published, "here": here, "over": over, "verdict": verdict}
        self._keep(row | alone._asdict() | {"effect": _range(effects), "figure": figure})

    def untestable(self, claim: str, whose: str, why: str, *, published: str = "", figure: str = "") -> None:
        """Adds a claim that this model, this data or this many seeds cannot decide, and says why."""
        row = {"claim": claim, "whose": whose, "published": published, "here": why, "over": "", "verdict": UNTESTABLE}
        self._keep(row | Measured(nan, nan, nan)._asdict() | {"effect": "", "figure": figure})

    def _keep(self, row: dict) -> None:
        self.rows.append({"notebook": self.notebook} | row | {"seen": self.seen})

    def table(self, folder: Path) -> Styler:
        """Writes the rows to ``folder``/claims.csv and returns them as a table to display."""
        table = pd.DataFrame(self.rows)
        table.to_csv(folder / "claims.csv", index=False, float_format="%.6g")
        return claims_table(table)


def _spoken(one: Measured, digits: int, signed: str) -> str:
    if not isfinite(one.value):
        return "not measured"
    value, low, high = (f"{v:{signed}.{digits}f}" for v in one[:3])
    return f"{value} ({low} to {high})" if isfinite(one.low) else value


def _range(effects: Sequence[float]) -> str:
    """The effect size, or the smallest and the largest of several."""
    return " to ".join(dict.fromkeys(f"{e:+.2f}" for e in (min(effects), max(effects)))) if effects else ""


def read_claims(where: Path) -> pd.DataFrame:
    """Verdict tables: those of all notebooks below a folder, in their order, or those that one CSV file holds.

    Where there are none, the table has no rows.
    """
    paths = sorted(Path(where).glob("[0-9][0-9]_*/claims.csv")) if Path(where).is_dir() else [Path(where)]
    found = [pd.read_csv(path, keep_default_na=False) for path in paths if path.is_file()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["notebook", *COLUMNS, "seen"])


def count_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """How many claims have which verdict: a row a notebook, a column a verdict."""
    counts = pd.crosstab(table["notebook"], table["verdict"])
    return counts.reindex(columns=VERDICTS, fill_value=0)


def claims_table(table: pd.DataFrame) -> Styler:
    """Rows of ``Claims``, or of ``read_claims``, as a table for people: every word is escaped, verdicts are bold.

    Rows of several notebooks begin with the notebook's number.
    """
    shown = ["notebook", *COLUMNS] if table["notebook"].nunique() > 1 else list(COLUMNS)
    numbered = table.assign(notebook=table["notebook"].str.split("_").str[0])
    look = escaped_table(numbered[shown]).hide(axis="index")
    look = look.map(
        lambda v: f"font-weight: bold; border-left: 4px solid {_INKS[v]}; padding-left: 6px", subset=["verdict"]
    )
    look = look.set_properties(["here"], **{"min-width": "15em"})
    left = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
    return look.set_properties(**left).set_table_styles([{"selector": "th", "props": list(left.items())}])
