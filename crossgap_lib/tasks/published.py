"""What the papers report, to stand beside what is measured."""

import pandas as pd

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
