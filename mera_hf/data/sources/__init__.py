"""One file a source. Each has `read(data_dir) -> Records` and `UNKNOWN`, what it does by default with an unknown
code."""

# Named here, and imported when one is prepared, so that `mera --help` does not pay for Polars.
SOURCES = ("diabetes130", "mimic3", "mimic4", "desynpuf", "visits_csv")
