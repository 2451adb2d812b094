"""The plots of reports and cards: each a function that returns a matplotlib `Figure`, drawn without a display.

All are narrow (five inches), so that a phone shows them at full size. Colours are told apart by colour-blind readers
and never carry a meaning alone.
"""

from mera_hf.evaluation.plots.calibration import calibration_plots
from mera_hf.evaluation.plots.differences import difference_plot
from mera_hf.evaluation.plots.distance import distance_plot
from mera_hf.evaluation.plots.eov import eov_plot
from mera_hf.evaluation.plots.memorization import memorization_plot
from mera_hf.evaluation.plots.patient import patient_plot
from mera_hf.evaluation.plots.quality import quality_plot
from mera_hf.evaluation.plots.recall import recall_plot
from mera_hf.evaluation.plots.set_sizes import set_size_plot
from mera_hf.evaluation.plots.strata import strata_plot
from mera_hf.evaluation.plots.style import installed, require_package, save, title_of


__all__ = [
    "calibration_plots",
    "difference_plot",
    "distance_plot",
    "eov_plot",
    "installed",
    "memorization_plot",
    "patient_plot",
    "quality_plot",
    "recall_plot",
    "require_package",
    "save",
    "set_size_plot",
    "strata_plot",
    "title_of",
]
