"""The papers' experiments: embeddings in, tables out. No plotting, no optimisation."""

from crossgap_lib.tasks.along_steps import along_steps, over_seeds, peaks, snapshot_steps
from crossgap_lib.tasks.cones import (
    along_cones,
    cone_places,
    projected_points,
    projection_variants,
    variant_retrieval,
)
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
from crossgap_lib.tasks.maps import FlatMap, flat_map, flat_maps, point_table, walks
from crossgap_lib.tasks.methods import image_image_methods, method_table, paired_gain, retrieval_and_shots
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
    "FlatMap",
    "PairCounts",
    "Stage",
    "all_similarities",
    "along_cones",
    "along_steps",
    "caption_sets",
    "class_prompts",
    "cone_places",
    "correctly_classified",
    "count_by_class",
    "count_by_modality",
    "drawn",
    "few_shot_prototypes",
    "filter_stages",
    "flat_map",
    "flat_maps",
    "gap_report",
    "image_image_methods",
    "image_text_pairs",
    "images_and_texts",
    "mean_similarity",
    "method_table",
    "minimal_removal",
    "nearest_wrong",
    "over_seeds",
    "overlap",
    "pair_similarities",
    "paired_gain",
    "peaks",
    "perfectly_ranked",
    "point_table",
    "projected_points",
    "projection_variants",
    "published",
    "retrieval_and_shots",
    "separating_dimensions",
    "shared_factors",
    "similarities",
    "snapshot_steps",
    "stage_measures",
    "texts_of",
    "unpaired_similarities",
    "variant_retrieval",
    "walks",
    "with_captions",
]
