"""Write the split of a prepared dataset as plain files that a peer's own environment can read.

    python recipes/peers/export.py --dataset data/diabetes130 --output-dir runs/peers/export

`visits.parquet` holds a row a patient: `patient_id` (string), `split` (string), `profile` (struct), `visits` (list of list of
string, in order of time); `codes.json` the list of codes that may be predicted. The last visit of the test patients is left
out: a peer has to predict it, and `mera compare` scores what it predicts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mera_hf import InputError
from mera_hf.data.prepared import Prepared
from mera_hf.files import whole_folder


def export(dataset: str, output_dir: str) -> dict[str, int]:
    """Write `visits.parquet` and `codes.json`; return the number of patients of each split.

    Raises:
        InputError: if `dataset` is no prepared dataset, or `output_dir` holds something.
    """
    output = Path(output_dir)
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise InputError(f"`output_dir` {output_dir!r} is not empty; choose another folder.")
    prepared, rows = Prepared.open(dataset), []
    for split, patients in prepared.splits.items():
        for patient in patients:
            visits = [visit["codes"] for visit in patient["visits"]]
            rows.append(
                {
                    "patient_id": patient["patient_id"],
                    "split": split,
                    "profile": patient["profile"],
                    "visits": visits[:-1] if split == "test" else visits,
                }
            )
    with whole_folder(output) as folder:
        pq.write_table(pa.Table.from_pylist(rows), folder / "visits.parquet", compression="zstd")
        (folder / "codes.json").write_text(json.dumps(prepared.codes) + "\n", encoding="utf-8")
    splits = [row["split"] for row in rows]
    return {split: splits.count(split) for split in dict.fromkeys(splits)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="a folder that `mera prepare` wrote")
    parser.add_argument("--output-dir", required=True, help="a new folder")
    arguments = parser.parse_args()
    try:
        counts = export(arguments.dataset, arguments.output_dir)
    except InputError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{split} {count:,}" for split, count in counts.items()), "patients")
    return 0


if __name__ == "__main__":
    sys.exit(main())
