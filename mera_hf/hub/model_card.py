"""Placeholder until the card is merged."""

from pathlib import Path


def model_card(checkpoint: Path, metrics: dict | None, repo_id: str | None) -> str:
    return f"---\nlibrary_name: mera_hf\n---\n\n# {repo_id}\n\nFor research, not clinical decisions.\n"
