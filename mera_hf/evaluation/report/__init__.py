"""The report: `metrics.json` as one HTML page for people, complete in itself and readable without a network.

`page` puts together what `sections` and `strata` (tables), `words` (sentences), `pictures` (plots) and `example` (one
patient) say; `templates/` has a file per section.
"""

from mera_hf.evaluation.report.example import example_patient
from mera_hf.evaluation.report.page import render_report, write_report
from mera_hf.evaluation.report.pictures import write_plots


__all__ = ["example_patient", "render_report", "write_plots", "write_report"]
