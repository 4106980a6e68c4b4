"""crossgap: the modality gap and the intra-modal misalignment of CLIP-like models, as notebooks and a thin library.

Names are imported when they are first used, so that ``crossgap --help`` does not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "CrossgapError": "errors",
    "Dataset": "datasets",
    "DualEncoder": "encoders",
    "Embeddings": "embeddings",
    "Inversion": "inversion",
    "StoredGallery": "streamed.gallery",
    "accelerate": "fewer_steps",
    "encode_images": "encoding",
    "encode_texts": "encoding",
    "load_dataset": "datasets",
    "load_model": "models",
    "load_pair": "embeddings",
    "load_retrieval": "benchmarks.retrieval",
    "load_shards": "shard_files",
    "load_texts": "benchmarks.texts",
    "oti": "inversion",
    "ovi": "inversion",
    "skip_report": "encoding",
    "streamed_retrieval": "streamed.retrieval",
    "zoo": "pretrain.cards",
}
_MODULES = ("metrics", "plots", "projection", "tasks")

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
