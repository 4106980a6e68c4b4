"""crossgap: the modality gap and the intra-modal misalignment of CLIP-like models, as notebooks and a thin library."""

from crossgap_lib import metrics, plots, tasks
from crossgap_lib.datasets import Dataset, load_dataset
from crossgap_lib.embeddings import Embeddings, encode_images, encode_texts, load_pair, skip_report
from crossgap_lib.encoders import DualEncoder
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion import Inversion, oti, ovi
from crossgap_lib.models import load_model

__all__ = [
    "CrossgapError",
    "Dataset",
    "DualEncoder",
    "Embeddings",
    "Inversion",
    "encode_images",
    "encode_texts",
    "load_dataset",
    "load_model",
    "load_pair",
    "metrics",
    "oti",
    "ovi",
    "plots",
    "skip_report",
    "tasks",
]
