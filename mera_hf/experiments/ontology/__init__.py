"""Does the tree match medicine? The tree compared with how codes occur together, and with what a model learned."""

from mera_hf.experiments.ontology.analysis import ontology_analysis
from mera_hf.experiments.ontology.drawing import ontology_plots
from mera_hf.experiments.ontology.tables import ontology_table
from mera_hf.experiments.ontology.words import alternatives, finding
from mera_hf.experiments.ontology.writing import write_ontology


__all__ = ["alternatives", "finding", "ontology_analysis", "ontology_plots", "ontology_table", "write_ontology"]
