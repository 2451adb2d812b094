"""Reading the tables that come with the package."""

import gzip
from pathlib import Path


_TABLES = Path(__file__).parent / "tables"


def read_columns(name: str) -> list[list[str]]:
    """The columns of `tables/<name>.tsv.gz`, each a list of `str`."""
    text = gzip.decompress((_TABLES / f"{name}.tsv.gz").read_bytes()).decode("utf-8").removesuffix("\n")
    width = text.partition("\n")[0].count("\t") + 1
    # One flat split: a list for each of 100,000 rows would take twice as long as the rest of loading a tree.
    cells = text.replace("\n", "\t").split("\t")
    return [cells[column::width] for column in range(width)]
