"""`ontology.json`, its tables and its plots, as files."""

from __future__ import annotations

from pathlib import Path

from mera_hf.evaluation import plots
from mera_hf.experiments.ontology.drawing import ontology_plots
from mera_hf.experiments.ontology.tables import ontology_table
from mera_hf.files import json_text, whole_file, write_text


def write_ontology(result: dict, folder: str | Path) -> list[str]:
    """Write `ontology.json`, `table.md` and `plots/`, each file whole or not at all; return the file names.

    Plots need matplotlib. Their names begin with the version, as in `plots/icd9cm_groupings.png`.

    Args:
        result (`dict`): from `ontology_analysis`.
        folder (`str` or `Path`): made if it is not there; files of the same name are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(json_text(result), folder / "ontology.json")
    write_text(ontology_table(result) + "\n", folder / "table.md")
    names = ["ontology.json", "table.md"]
    if not plots.installed():
        return names
    (folder / "plots").mkdir(exist_ok=True)
    for version, compared in result["versions"].items():
        for name, figure in ontology_plots(compared).items():
            path = folder / "plots" / f"{version.lower()}_{name}.png"
            with whole_file(path) as unfinished:
                plots.save(figure, unfinished, "png")
            names.append(f"plots/{path.name}")
    return names
