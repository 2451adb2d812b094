"""The whole comparison of the tree with medicine, for a prepared dataset and a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mera_hf.data.prepared import Prepared
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import FEWEST_PATIENTS
from mera_hf.experiments.ontology import agreement as measure
from mera_hf.experiments.ontology.cooccurrence import (
    Visits,
    cooccurrence,
    next_visit_pairs,
    read_visits,
    repeatability,
    visit_pairs,
)
from mera_hf.experiments.ontology.groupings import Grouping, flat_groupings, tree_distance, tree_levels
from mera_hf.experiments.ontology.misfits import RANDOM_GROUPS, chapter_map, far_pairs, group_fit
from mera_hf.icd import VERSIONS


if TYPE_CHECKING:
    from tqdm import tqdm

    from mera_hf.modeling_mera import MeraForDiagnosis

FEWEST_CODES = 20


def ontology_analysis(
    prepared: Prepared,
    model: MeraForDiagnosis | None = None,
    encoder: str | None = None,
    min_visits: int = 20,
    seed: int = 0,
) -> dict:
    """Compare the ICD tree, CCS and CCSR with how codes occur together in the visits of the train split, and with what a
    model's rows of the codes say.

    ICD-9-CM and ICD-10-CM are compared separately: their trees have no node in common, and each visit is coded in one
    version.

    Args:
        prepared ([`~mera_hf.data.prepared.Prepared`]): the dataset.
        model (`MeraForDiagnosis`, *optional*): its code rows are compared too, as cosines after subtracting their
            mean: the output rows, and the input rows if they differ.
        encoder (`str`, *optional*): a sentence encoder, see `encode_sentences`: its embeddings of the descriptions are
            compared too. If a model's rows started from them, this is the agreement that training did not have to find.
        min_visits (`int`, defaults to 20): codes in fewer visits of the train split, or of fewer than 10 patients, are left
            out, and their number is reported.
        seed (`int`, defaults to 0): seed of permutations, bootstrap, halves and random groups.

    Returns:
        `dict` for `ontology.json`, fractions and counts:

        - `dataset` and `settings`.
        - `too_small`: versions with fewer than 20 counted codes, and how many they have.
        - `versions`: for each version measured
            - `codes`, `left_out` (codes below the floor) and `levels` of the tree.
            - `likeness`: for each kind of likeness (`visit`, `next_visit` and `company` of `cooccurrence`, and those of
              `code_embeddings`) `agreement` of the tree and of each grouping, `None` if too few codes share a group;
              `comparisons` of groupings; `by_level`; `clustering`; `repeatability`.
            - `correlations` between kinds of likeness (Spearman).
            - `groups`: for each grouping its groups of three codes or more, the worst first, see `group_fit`.
            - `far_pairs`, see there, and `chapters`, see `chapter_map`.

    Raises:
        [`~mera_hf.errors.InputError`]: if no version has 20 codes that are common enough, or the model lacks one.
    """
    from tqdm import tqdm

    if min_visits < 1:
        raise InputError(f"`min_visits` is {min_visits}; set 1 or more.")
    train = prepared.splits["train"]
    counted, too_small, size = {}, {}, {}
    for version in VERSIONS:
        own = [entry for entry in prepared.entries if entry["code"].startswith(f"{version}:")]
        common = [e for e in own if e["visits"] >= min_visits and e["patients"] >= FEWEST_PATIENTS]
        size[version] = len(own)
        if len(common) >= FEWEST_CODES:
            counted[version] = common
        elif own:
            too_small[version] = len(common)
    if not counted:
        found = "; ".join(f"{VERSIONS[version].label} has {count} such codes" for version, count in too_small.items())
        raise InputError(
            f"{str(prepared.folder)!r} has too few codes in {min_visits} visits and {FEWEST_PATIENTS} patients of the train "
            f"split or more: {found}, and {FEWEST_CODES} are needed. Prepare more patients, or lower `min_visits`."
        )
    versions = {}
    for version, entries in counted.items():
        codes, descriptions = ([entry[key] for entry in entries] for key in ("code", "description"))
        rows = code_embeddings(codes, descriptions, model, encoder)
        with tqdm(total=3 + len(rows), desc=f"ontology {VERSIONS[version].label}", unit="likeness") as progress:
            versions[version] = _compare(codes, descriptions, read_visits(train, codes), rows, seed, progress)
        versions[version]["left_out"] = size[version] - len(codes)
    return {
        "dataset": {
            "name": prepared.report["source"],
            "fingerprint": prepared.report["fingerprint"],
            "split": "train",
            "patients": len(train),
            "visits": sum(map(len, train["visits"])),
        },
        "settings": {
            "min_visits": min_visits,
            "min_patients": FEWEST_PATIENTS,
            "permutations": measure.PERMUTATIONS,
            "bootstrap": measure.REPLICATES,
            "random_groups": RANDOM_GROUPS,
            "seed": seed,
            "encoder": encoder,
        },
        "versions": versions,
        "too_small": too_small,
    }


def code_embeddings(
    codes: Sequence[str],
    descriptions: Sequence[str],
    model: MeraForDiagnosis | None = None,
    encoder: str | None = None,
) -> dict[str, np.ndarray]:
    """Each code as a vector: float64 of shape (codes, width).

    `output_rows` and `input_rows` of the model (the latter if they differ), and `descriptions` from the encoder.
    """
    import torch

    from mera_hf.training.code_tokens import encode_sentences

    found = {}
    if model is not None:
        index = {code: number for number, code in enumerate(model.config.codes)}
        missing = [code for code in codes if code not in index]
        if missing:
            raise InputError(
                f"`model` lacks {len(missing)} codes of the dataset, {missing[0]} among them; use a checkpoint that was "
                "trained on this dataset, or compare without a model."
            )
        chosen = torch.tensor([index[code] for code in codes])
        with torch.no_grad():
            output = model.code_rows()[chosen.to(model.device)]
            assert model.config.code_token_start is not None  # a model with codes has their tokens
            tokens = chosen + model.config.code_token_start
            inputs = model.get_input_embeddings()(tokens.to(model.device))
        rows = {"output_rows": output, "input_rows": inputs}
        found = {name: tensor.double().cpu().numpy() for name, tensor in rows.items()}
        if np.allclose(cosines(found["output_rows"]), cosines(found["input_rows"])):
            del found["input_rows"]
    if encoder is not None:
        found["descriptions"] = encode_sentences(list(descriptions), encoder).double().numpy()
    return found


def cosines(rows: np.ndarray) -> np.ndarray:
    """Cosines between rows after subtracting their mean, which a language model's rows share: shape (codes, codes)."""
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(rows - rows.mean(axis=0))


def _compare(
    codes: Sequence[str],
    descriptions: Sequence[str],
    visits: Visits,
    rows: dict[str, np.ndarray],
    seed: int,
    progress: tqdm,
) -> dict:
    levels, distance, groupings = tree_levels(codes), tree_distance(codes), flat_groupings(codes)
    counts = {"visit": visit_pairs(visits), "next_visit": next_visit_pairs(visits)}
    together = cooccurrence(visits)
    repeatable = repeatability(visits, seed=seed)
    likeness = {}
    kinds = together | {name: cosines(vectors) for name, vectors in rows.items()}
    for name, values in kinds.items():
        likeness[name] = {
            "agreement": _agreement(distance, groupings, values, seed),
            "comparisons": _comparisons(groupings, values, seed),
            "by_level": measure.by_level(levels, distance, values, counts.get(name)),
            "clustering": measure.clustering(values, distance, groupings),
            "repeatability": repeatable.get(name),
        }
        progress.update()
    visits_of_code = visits.table.sum(axis=0)
    groups = {
        name: group_fit(grouping, together["company"], counts["visit"], visits_of_code, seed)
        for name, grouping in groupings.items()
    }
    return {
        "codes": len(codes),
        "levels": levels,
        "likeness": likeness,
        "correlations": _correlations(kinds),
        "groups": groups,
        "far_pairs": far_pairs(codes, descriptions, distance, visits, counts["visit"], together["visit"]),
        "chapters": chapter_map(groupings["chapter"], counts["visit"]),
    }


def _agreement(distance: np.ndarray, groupings: dict[str, Grouping], likeness: np.ndarray, seed: int) -> dict:
    """The agreement of the tree and of each grouping; `None` if too few codes share a group."""
    found = {"tree": None if measure.too_few(distance, likeness) else measure.agreement(distance, likeness, seed)}
    for name, grouping in groupings.items():
        known = np.ix_(grouping.known, grouping.known)
        flat, alike = grouping.distance()[known], likeness[known]
        found[name] = None
        if not measure.too_few(flat, alike):
            found[name] = {
                "groups": grouping.shared,
                **measure.agreement(flat, alike, seed),
                **measure.contrast(flat, alike, seed),
            }
    return found


def _comparisons(groupings: dict[str, Grouping], likeness: np.ndarray, seed: int) -> list[dict]:
    """Chapters and blocks of the tree compared with groupings that could replace them."""
    found = []
    for ours in ("chapter", "block"):
        for theirs in ("ccs", "ccsr"):
            if theirs in groupings:
                compared = measure.compare_groupings(groupings[ours], groupings[theirs], likeness, seed)
                if compared is not None:
                    found.append({"groupings": [ours, theirs], **compared})
    return found


def _correlations(likeness: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Spearman correlations between kinds of likeness over all pairs of codes; a constant likeness has none."""
    from scipy.stats import spearmanr

    upper = {name: values[np.triu_indices(len(values), 1)] for name, values in likeness.items()}
    varied = [name for name, values in upper.items() if np.ptp(values)]
    return {a: {b: float(spearmanr(upper[a], upper[b]).statistic) for b in varied} for a in varied}
