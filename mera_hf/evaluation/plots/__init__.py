"""The plots of reports and cards: each is a function that returns a matplotlib `Figure`, drawn without a display.

All are narrow (five inches), so that a phone shows them at full size. Colour-blind readers can tell the colours
apart, and no meaning rests on colour alone.
"""

from mera_hf.evaluation.plots.calibration import expected_plot, reliability_plot, severity_plot
from mera_hf.evaluation.plots.differences import difference_plot
from mera_hf.evaluation.plots.distance import distance_plot
from mera_hf.evaluation.plots.patient import patient_plot
from mera_hf.evaluation.plots.quality import quality_plot
from mera_hf.evaluation.plots.recall import recall_plot
from mera_hf.evaluation.plots.set_sizes import set_size_plot
from mera_hf.evaluation.plots.strata import strata_plot
from mera_hf.evaluation.plots.style import installed, require_package, save


__all__ = [
    "difference_plot",
    "distance_plot",
    "expected_plot",
    "installed",
    "patient_plot",
    "quality_plot",
    "recall_plot",
    "reliability_plot",
    "require_package",
    "save",
    "set_size_plot",
    "severity_plot",
    "strata_plot",
]
