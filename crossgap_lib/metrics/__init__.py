"""Pure measures: features or similarities in, numbers out."""

from crossgap_lib.metrics.bootstrap import bootstrap_interval, resampled_means
from crossgap_lib.metrics.classification import accuracy, answered_rightly, linear_probe, zero_shot_accuracy
from crossgap_lib.metrics.geometry import alignment, gap_vector, modality_gap, overlap_coefficient, uniformity
from crossgap_lib.metrics.ranking import (
    BLOCK_BYTES,
    RANKING,
    Retrieval,
    average_precision,
    map_at_r,
    mean_average_precision,
    r_precision,
    ranked_relevance,
    recall_at_k,
    retrieval,
    retrieval_from_similarity,
)
