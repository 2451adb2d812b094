"""`ontology.json`, its tables and its plots, as files."""

from __future__ import annotations

import json
from pathlib import Path

from mera_hf.evaluation import plots
from mera_hf.evaluation.ontology.drawing import ontology_plots
from mera_hf.evaluation.ontology.tables import ontology_table
from mera_hf.evaluation.results import write_text


def write_ontology(result: dict, folder: str | Path) -> list[str]:
    """Write `ontology.json`, `table.md` and `plots/`, each file whole or not at all; return the names written.

    Plots need matplotlib. Their names begin with the version, as in `plots/icd9cm_groupings.png`.

    Args:
        result (`dict`): from `ontology_analysis`.
        folder (`str` or `Path`): made if it is not there; files of the same name are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(text + "\n", folder / "ontology.json")
    write_text(ontology_table(result) + "\n", folder / "table.md")
    names = ["ontology.json", "table.md"]
    if not plots.installed():
        return names
    (folder / "plots").mkdir(exist_ok=True)
    for version, compared in result["versions"].items():
        for name, figure in ontology_plots(compared).items():
            path = folder / "plots" / f"{version.lower()}_{name}.png"
            part = path.with_name(path.name + ".tmp")
            plots.save(figure, part, "png")
            part.replace(path)
            names.append(f"plots/{path.name}")
    return names
