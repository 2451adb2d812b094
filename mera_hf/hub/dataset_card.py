"""Placeholder until the dataset card is merged."""

from pathlib import Path


def dataset_card(folder: Path, repo_id: str) -> str:
    return (Path(folder) / "README.md").read_text(encoding="utf-8")
