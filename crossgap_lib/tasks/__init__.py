"""The papers' experiments: embeddings in, tables out. No plotting, no optimisation."""

from crossgap_lib.tasks.along_steps import along_steps, over_seeds, peaks, snapshot_steps
from crossgap_lib.tasks.dogs_vs_cats import (
    Stage,
    correctly_classified,
    few_shot_prototypes,
    filter_stages,
    minimal_removal,
    nearest_wrong,
    perfectly_ranked,
    shared_factors,
    stage_measures,
)
from crossgap_lib.tasks.gap import gap_report, separating_dimensions
from crossgap_lib.tasks.pair_counts import PairCounts, count_by_class, count_by_modality, mean_similarity, overlap
from crossgap_lib.tasks.pairs import (
    all_similarities,
    caption_sets,
    class_prompts,
    drawn,
    image_text_pairs,
    images_and_texts,
    pair_similarities,
    similarities,
    texts_of,
    unpaired_similarities,
    with_captions,
)
from crossgap_lib.tasks.published import published

__all__ = [
    "PairCounts",
    "Stage",
    "all_similarities",
    "along_steps",
    "caption_sets",
    "class_prompts",
    "correctly_classified",
    "count_by_class",
    "count_by_modality",
    "drawn",
    "few_shot_prototypes",
    "filter_stages",
    "gap_report",
    "image_text_pairs",
    "images_and_texts",
    "mean_similarity",
    "minimal_removal",
    "nearest_wrong",
    "over_seeds",
    "overlap",
    "pair_similarities",
    "peaks",
    "perfectly_ranked",
    "published",
    "separating_dimensions",
    "shared_factors",
    "similarities",
    "snapshot_steps",
    "stage_measures",
    "texts_of",
    "unpaired_similarities",
    "with_captions",
]
