"""Feature -> feature: maps that are computed, not trained (``linear``), and those that are trained for comparison."""

from crossgap_lib.projection.adapters import Adapter, train_adapter
from crossgap_lib.projection.linear import PUBLISHED_BANDS, IsoClip, Projection, centre, isoclip, mix, pca_of_prompts
from crossgap_lib.projection.tuning import tune_projections
