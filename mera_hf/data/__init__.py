"""Visits: schema, sources, cohorts, splits, timelines, and the prepared dataset folder.

Every source produces the schema, and every consumer starts from it.
"""
