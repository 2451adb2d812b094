"""Evaluation: metrics, reference rankers, controls, results and the report."""
