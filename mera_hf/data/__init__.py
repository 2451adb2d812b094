"""Visits: schema, sources, cohorts, splits, timelines, and the prepared dataset folder.

Every source ends in the schema, and every consumer begins with it.
"""
