"""Does the tree match medicine? The tree of codes against how codes occur together, and against what a model learned."""

from .analysis import ontology_analysis
from .drawing import ontology_plots
from .tables import ontology_table
from .words import alternatives, finding
from .writing import write_ontology


__all__ = ["alternatives", "finding", "ontology_analysis", "ontology_plots", "ontology_table", "write_ontology"]
