"""Modules for `evaluate.load`, each a folder that can be pushed as a Space."""
