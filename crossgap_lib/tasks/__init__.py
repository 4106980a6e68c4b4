"""The papers' experiments: embeddings in, tables out. No plotting, no optimisation."""

from crossgap_lib.embeddings.embeddings import drawn_rows, load_vectors
from crossgap_lib.tasks.along_steps import along_steps, peaks, query_steps, snapshot_steps, step_means
from crossgap_lib.tasks.claims import Claims, claims_table, count_verdicts, judge, read_claims
from crossgap_lib.tasks.comparison import (
    Measured,
    bold_table,
    chosen_elsewhere,
    escaped_table,
    gain,
    gain_table,
    measured,
)
from crossgap_lib.tasks.cones import (
    along_cones,
    cone_places,
    projected_points,
    projection_variants,
    variant_retrieval,
    variant_similarities,
)
from crossgap_lib.tasks.dogs_vs_cats import (
    correctly_classified,
    few_shot_prototypes,
    filter_stages,
    neighbours,
    shared_factors,
    stage_measures,
)
from crossgap_lib.tasks.few_shot import (
    IMAGE_ONLY,
    SUPPORT_ALONE,
    WITH_PROMPTS,
    class_texts,
    few_shot,
    image_only_methods,
    one_to_one,
    prompt_methods,
    support_alone,
    with_pca,
)
from crossgap_lib.tasks.few_shot_tables import (
    few_shot_table,
    pca_gains,
    published_few_shot,
    published_pca_gains,
    shot_table,
    stands_for,
)
from crossgap_lib.tasks.gap import gap_report, separating_dimensions
from crossgap_lib.tasks.maps import flat_maps, map_table, point_table, trust_table, walks
from crossgap_lib.tasks.methods import image_image_methods, invertible, retrieval_and_shots
from crossgap_lib.tasks.pair_counts import count_by_class, count_by_modality, jackknife, overlap, overlap_of_counts
from crossgap_lib.tasks.pairs import (
    MOST_COMPARED,
    all_similarities,
    caption_sets,
    class_prompts,
    drawn,
    image_text_pairs,
    images_and_texts,
    texts_of,
    unpaired_similarities,
    with_captions,
)
from crossgap_lib.tasks.precisions import average_precisions, by_task
from crossgap_lib.tasks.protocol import protocol, protocol_table, reevaluating_table
from crossgap_lib.tasks.published import beside_published, counterpart, published
from crossgap_lib.tasks.search_sets import queries_and_gallery, texts_to_search
from crossgap_lib.tasks.shots import FewShotSplit, equal_rows, hold_back, labelled_by
from crossgap_lib.tasks.words import projection_words, tokenizer_words
