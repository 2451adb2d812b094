"""What a checkpoint says about its origin, for its card: data, base model, and licence of the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mera_hf.data.sources import SOURCES, source_module


if TYPE_CHECKING:
    from mera_hf.data.sources.records import Origin

# Licences of the bases that the recipes name; others are looked up by the reader
BASE_LICENCES = {
    "BioMistral/BioMistral-7B": "apache-2.0",
    "meta-llama/Llama-2-7b-hf": "llama2",
    "google/flan-t5-base": "apache-2.0",
}


def origin_of(config: Mapping) -> Origin | None:
    """Where the patients come from that a checkpoint was trained on; `None` if it does not say, or saw none.

    Args:
        config (`Mapping`): the content of its `config.json`.
    """
    provenance = config.get("provenance") or {}
    if provenance.get("source") not in SOURCES:
        return None
    source = source_module(provenance["source"])
    # A demo of credentialed data is open
    return source.ORIGIN if provenance["credentialed"] else getattr(source, "DEMO", source.ORIGIN)


def licence_of(config: Mapping) -> dict[str, str]:
    """The licence of the weights, as fields of a model card's metadata.

    The data's agreement comes first, then the base model's licence; weights trained here from scratch on open data are
    Apache-2.0 (this project's choice). A checkpoint that does not say what it was trained on has none.

    Args:
        config (`Mapping`): the content of a `config.json`.
    """
    provenance, base = config.get("provenance"), config.get("base_model")
    if provenance is None:
        return {"license": "unknown"}
    if provenance.get("credentialed"):
        agreement, origin = provenance.get("agreement"), origin_of(config)
        if not agreement:
            return {"license": "unknown"}
        slug = re.sub(r"[^a-z0-9.]+", "-", agreement.lower()).strip("-")
        link = {"license_link": origin.homepage} if origin and origin.homepage else {}
        return {"license": "other", "license_name": slug, **link}
    return base_licence(base)


def base_licence(base: str | None) -> dict[str, str]:
    """The licence of what was made from a base model alone, as fields of a model card's metadata.

    Args:
        base (`str` or `None`): as the Hub names it; `None` for a model trained from scratch.
    """
    if base is None:
        return {"license": "apache-2.0"}
    if base in BASE_LICENCES:
        return {"license": BASE_LICENCES[base]}
    link = {"license_link": f"https://huggingface.co/{base}"} if "/" in base else {}
    return {"license": "other", "license_name": "licence-of-the-base-model", **link}
