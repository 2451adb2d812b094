"""The report: one self-contained HTML page for people, readable without a network, with tables and plots beside it.

A page is a list of sections of blocks (`mera_hf.blocks`). Each section of `metrics.json` says in its own module what it shows.
"""

from mera_hf.report.folder import write_comparison, write_evaluation, write_plots, write_report
from mera_hf.report.page import render_comparison, render_report


__all__ = [
    "render_comparison",
    "render_report",
    "write_comparison",
    "write_evaluation",
    "write_plots",
    "write_report",
]
