"""Points of flat maps as a table for Embedding Atlas (Apple, 2025), with words, pictures and vectors.

    embedding-atlas atlas.parquet --x umap_x --y umap_y --text text --image image

Nothing of it is needed to write the file, and no column is pickled.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import whole

_SIDE = 96  # pixels, of the longer side of a thumbnail
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the Hugging Face datasets keep pictures


def thumbnails(photos: Dataset, ids: Iterable[str]) -> dict[str, bytes]:
    """id -> small JPEG of the picture, for some ids of a data set.

    Raises:
        CrossgapError: an id that is not in the data set, or a picture that can't be decoded.
    """
    rows = {str(name): row for row, name in enumerate(photos.ids)}
    if strangers := [name for name in ids if name not in rows]:
        raise CrossgapError(f"{photos.name} has no picture {strangers[0]!r}.")
    return {str(name): _jpeg(photos.picture(rows[name])) for name in ids}


def _jpeg(picture: Image.Image) -> bytes:
    small, file = picture.copy(), BytesIO()
    small.thumbnail((_SIDE, _SIDE))
    small.save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def data_url(jpeg: bytes) -> str:
    """A thumbnail as an address that holds it, so that a page needs no other file."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def write_atlas(
    path: Path, table: pd.DataFrame, sets: Mapping[str, Embeddings], pictures: Mapping[str, bytes] | None = None
) -> Path:
    """Writes the points as parquet, whole or not at all.

    Columns: those of ``tasks.point_table`` (strings, and float32 places on the maps), image (struct of bytes and
    path, null where there is no picture of that source) and vector (fixed-size list of float32, the unit features).

    Args:
        table: ``tasks.point_table`` of the sets.
        sets: the same sets, in the same order.
        pictures: source -> an encoded picture.

    Raises:
        CrossgapError: a table of other points.
    """
    if table["id"].tolist() != [f"{name}:{i}" for name, e in sets.items() for i in e.ids]:
        raise CrossgapError("The table must hold the points of these sets, in their order.")
    columns = {name: _column(table[name]) for name in table}
    images = [_image(source, pictures or {}) for source in table["source"]]
    rows = np.concatenate([e.features.numpy() for e in sets.values()])  # (points, d)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    with whole(path) as part:
        pq.write_table(pa.table(columns | {"image": pa.array(images, _IMAGE), "vector": vectors}), part)
    return path


def _column(values: pd.Series) -> pa.Array:
    if pd.api.types.is_numeric_dtype(values):
        return pa.array(values.to_numpy(np.float32))
    return pa.array([None if pd.isna(value) else value for value in values], pa.string())


def _image(source: str, pictures: Mapping[str, bytes]) -> dict[str, object] | None:
    return {"bytes": pictures[source], "path": f"{source}.jpg"} if source in pictures else None
