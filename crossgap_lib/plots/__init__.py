"""Pure plots: a result goes in, a matplotlib Figure comes out."""

from crossgap_lib.plots.ablations import gain_curves, method_gains, pareto, spectrum, task_gains
from crossgap_lib.plots.degrees_of_freedom import (
    anchor_curves,
    direction_curves,
    noise_curves,
    readout_noise,
    readout_scatters,
    recovery_state,
    recovery_threshold,
)
from crossgap_lib.plots.dogs_vs_cats import agreement_bars, stage_bars
from crossgap_lib.plots.few_shot import few_shot_curves, pca_gains
from crossgap_lib.plots.gap import gap_dimensions, gap_ladder, gap_map
from crossgap_lib.plots.inversion import against_compute, inversion_curves
from crossgap_lib.plots.maps import cone_curves, map_grid, projected_histograms, walk_panels
from crossgap_lib.plots.methods import paired_bars, slope_chart
from crossgap_lib.plots.page import map_page
from crossgap_lib.plots.pictures import contact_sheet, neighbour_pairs
from crossgap_lib.plots.similarities import count_histograms, histogram_panels, histograms, overlap_bars
from crossgap_lib.plots.speed import bench_curves
from crossgap_lib.plots.style import COLOURS, DIFFERENT, SAME, counted, figure_folder, save_figure

__all__ = [
    "COLOURS",
    "DIFFERENT",
    "SAME",
    "against_compute",
    "agreement_bars",
    "anchor_curves",
    "bench_curves",
    "cone_curves",
    "contact_sheet",
    "count_histograms",
    "counted",
    "direction_curves",
    "few_shot_curves",
    "figure_folder",
    "gain_curves",
    "gap_dimensions",
    "gap_ladder",
    "gap_map",
    "histogram_panels",
    "histograms",
    "inversion_curves",
    "map_grid",
    "map_page",
    "method_gains",
    "neighbour_pairs",
    "noise_curves",
    "overlap_bars",
    "paired_bars",
    "pareto",
    "pca_gains",
    "projected_histograms",
    "readout_noise",
    "readout_scatters",
    "recovery_state",
    "recovery_threshold",
    "save_figure",
    "slope_chart",
    "spectrum",
    "stage_bars",
    "task_gains",
    "walk_panels",
]
