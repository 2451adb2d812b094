"""How fast the engine is, as ratios of two ways to do the same on the same machine: `python -m tests.benchmarks [NAME ...]`.

The two sides of a comparison take turns in one process, and the shortest of five times counts, so that little depends on the
machine and what else runs there. Figures go to results.json beside this file, and from there into the README.
"""

import argparse
import json


def main(arguments: list[str] | None = None) -> None:
    """Run all comparisons, or those named, and write what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to run; all without it")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    args = parser.parse_args(arguments)

    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from .rows import ROWS
    from .table import RESULTS, goal, met, replace_file, update_readme

    unknown = sorted(set(args.names) - set(ROWS))
    if unknown:
        parser.error(f"{unknown[0]!r} is not a comparison; they are {', '.join(ROWS)}.")
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = args.names or list(ROWS)
    with tqdm(names, unit="comparison") as bar:
        for name in bar:
            bar.set_description(name)
            row = ROWS[name]
            ratio, setting = row.run()
            results[name] = {
                "ratio": float(f"{ratio:.3g}"),
                "goal": row.goal,
                "better": row.better,
                "setting": f"{setting}; {args.threads} thread{'s' if args.threads > 1 else ''}",
            }
            # Kept as they come: a later comparison may be interrupted
            ordered = {name: results[name] for name in ROWS if name in results}
            replace_file(RESULTS, json.dumps(ordered, indent=2) + "\n")
    update_readme()
    for name in names:
        entry = results[name]
        print(f"{name:<20}{entry['ratio']:>8g}   {goal(entry):<15}{'met' if met(entry) else 'MISSED'}")


if __name__ == "__main__":
    main()
