"""Evaluation at the size of MIMIC-IV: all sections of `mera evaluate` but the ranking itself, on two cores.

    python -m tests.benchmarks.evaluation_scale --patients 20000 --codes 5000

Patients, histories and rankings are synthetic: codes of ICD-9-CM of very different frequency, 13 a visit, half of them
repeated, and six rankers. As on real data, the best threshold gives the set of the prevalence ranker every code there is.
Writes the time of each section and the peak memory, rankings included, to `evaluation_scale.json` beside this file, or into
`--output-dir`.
"""

import argparse
import functools
import json
import os
import resource
import sys
import time
from pathlib import Path


CORES = 2
VISIT_CODES = 13
RANKERS = ("mera", "prevalence", "copy_history", "ridge", "logistic", "gru")


def synthetic(n_patients: int, n_codes: int, seed: int = 0):
    """`RankedPatients` of all rankers."""
    import numpy as np

    from mera_hf.data.samples import Sample
    from mera_hf.evaluation.rankings.ranked import Cut, RankedPatients, Ranking
    from mera_hf.icd import IcdTree, sort_codes

    rng = np.random.default_rng(seed)
    codes = IcdTree.load("ICD9CM").codes(billable=True)
    codes = sort_codes(rng.choice(codes, n_codes, replace=False).tolist())
    popularity = rng.permutation(1 / np.arange(1, n_codes + 1))
    popularity /= popularity.sum()
    samples = []
    for patient in range(n_patients):
        visits = [set()]
        for _ in range(2 + rng.poisson(1.8)):
            kept = [code for code in visits[-1] if rng.random() < 0.5]
            visits.append({*kept, *rng.choice(n_codes, VISIT_CODES - len(kept), p=popularity).tolist()})
        visits = [sorted(visit) for visit in visits[1:]]
        profile = {"sex": "FM"[patient % 2], "age": float(rng.integers(18, 95)), "race": f"race {rng.integers(6)}"}
        samples.append(Sample(patient, visits[:-1], visits[-1], profile))

    rankings = {}
    for name in RANKERS:
        order = np.empty((n_patients, n_codes), dtype=np.int32)
        probabilities = np.empty((n_patients, n_codes), dtype=np.float32)
        for row, sample in enumerate(samples):
            scores = np.log(popularity) + (0 if name == "prevalence" else rng.gumbel(size=n_codes))
            scores[sample.history[-1]] += 4
            order[row] = np.argsort(-scores)
            probabilities[row] = 1 / (1 + np.exp(-scores[order[row]]))
        sizes = np.full(n_patients, n_codes) if name == "prevalence" else rng.poisson(VISIT_CODES, n_patients)
        cut = Cut(sizes, "EOV" if name == "mera" else "threshold")
        copied = name == "copy_history"  # without probabilities
        rankings[name] = Ranking(order, cut, scores=probabilities) if copied else Ranking(order, cut, probabilities)
    return RankedPatients(samples, codes, rankings, (popularity * 50 * n_patients).astype(int))


def measure(patients) -> dict[str, float]:
    """Seconds of each section."""
    from mera_hf.evaluation.bootstrap import intervals_of_runs
    from mera_hf.evaluation.metrics import KS, recall_curve
    from mera_hf.evaluation.sections import SECTIONS, name_of
    from mera_hf.evaluation.tally import tally_ranking

    samples, rankings = patients.samples, patients.rankings.values()
    ks = [k for k in KS if k <= len(patients.codes)]

    def rankers():
        for each in rankings:
            tally = tally_ranking(each.order, each.set_sizes, samples, ks)
            tally.measure()
            intervals_of_runs([tally])

    sections = {
        "rankers": rankers,
        "curves": lambda: [recall_curve(each.order, samples, max(ks)) for each in rankings],
        **{name_of(section): functools.partial(section.measure, patients) for section in SECTIONS},
    }
    seconds = {}
    for name, section in sections.items():
        started = time.perf_counter()
        section()
        seconds[name] = round(time.perf_counter() - started, 1)
        print(f"{name}: {seconds[name]} s, peak {peak_mb():,.0f} MB so far", file=sys.stderr)
    return seconds


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--codes", type=int, default=5_000)
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is imported
        os.environ[f"{library}_NUM_THREADS"] = str(CORES)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    patients = synthetic(args.patients, args.codes)
    before = peak_mb()
    seconds = measure(patients)
    result = {
        "command": f"python -m tests.benchmarks.evaluation_scale --patients {args.patients} --codes {args.codes}",
        "patients": args.patients,
        "codes": args.codes,
        "rankers": len(RANKERS),
        "cores": CORES,
        "sections": seconds,
        "seconds": round(sum(seconds.values()), 1),
        "rankings_mb": round(before),
        "peak_mb": round(peak_mb()),
    }
    (args.output_dir / "evaluation_scale.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
