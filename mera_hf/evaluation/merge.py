"""Several seeds of one recipe as one result: `python -m mera_hf.evaluation.merge OUTPUT_DIR EVALUATION_DIR ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mera_hf.blocks import markdown_table, text_table
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import ranker_table
from mera_hf.evaluation.results import Metrics, merge_metrics, read_metrics, write_metrics
from mera_hf.files import write_text


def merge_evaluations(output_dir: str | Path, evaluations: Sequence[str | Path]) -> Metrics:
    """Merge what `mera evaluate` wrote for several seeds: `metrics.json`, `table.md` and `quality.png` with the spread.

    Args:
        output_dir (`str` or `Path`): where they go; files of these names are replaced.
        evaluations (`Sequence[str or Path]`): output folders of `mera evaluate`, one a seed.

    Returns:
        the merged metrics.

    Raises:
        [`~mera_hf.errors.InputError`]: as `merge_metrics`.
    """
    merged = merge_metrics([read_metrics(Path(folder) / "metrics.json") for folder in evaluations])
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_metrics(merged, output_dir / "metrics.json")
    write_text(markdown_table(ranker_table(merged)) + "\n", output_dir / "table.md")
    if plots.installed():
        plots.save(plots.quality_plot(merged), output_dir / "quality.png", "png")
    return merged


def main() -> int:
    """Merge the folders of the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir")
    parser.add_argument("evaluations", nargs="+")
    args = parser.parse_args()
    try:
        print(text_table(ranker_table(merge_evaluations(args.output_dir, args.evaluations))))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
