"""Pure plots: a result goes in, a matplotlib Figure comes out."""

from crossgap_lib.plots.contact_sheets import contact_sheet, neighbour_pairs
from crossgap_lib.plots.degrees_of_freedom import (
    anchor_curves,
    noise_curves,
    readout_noise,
    recovery_state,
    recovery_threshold,
    two_images,
)
from crossgap_lib.plots.dogs_vs_cats import agreement_dots, stage_lines
from crossgap_lib.plots.few_shot import accuracy_panels, names_bars, shot_gains
from crossgap_lib.plots.gains import band_gains, change_dots, gain_curves, gain_grid, gap_points, line_panels
from crossgap_lib.plots.gap import gap_dimensions, gap_ladder, gap_map
from crossgap_lib.plots.inversion import against_compute, inversion_curves
from crossgap_lib.plots.maps import cone_curves, map_grid, projected_histograms, walk_panels
from crossgap_lib.plots.methods import method_dots
from crossgap_lib.plots.page import map_page
from crossgap_lib.plots.schema import two_readings
from crossgap_lib.plots.similarities import (
    caption_rows,
    count_histograms,
    counts_state,
    dial_curves,
    histogram_panels,
    histograms,
    sibling_slopes,
)
from crossgap_lib.plots.speed import bench_curves
from crossgap_lib.plots.style import COLOURS, DIFFERENT, MATCHING, SAME, SERIES, counted, figure_folder, save_figure
