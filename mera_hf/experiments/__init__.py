"""The experiments of the paper, and some that it leaves open, on any prepared dataset: what each part is worth."""

NAMES = ("memorization", "hierarchy", "eov", "ablation", "ontology")
