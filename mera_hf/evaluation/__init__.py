"""Evaluation: metrics, rankers, plots, the sections of results, and comparisons."""
