"""Where `mera evaluate` and `mera compare` begin: the patients, the candidate codes and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.data.prepared import Prepared
from mera_hf.data.samples import Sample
from mera_hf.data.splits import split_hash
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import KS, ks_up_to
from mera_hf.evaluation.rankings.reference import REFERENCES, fit_references
from mera_hf.machine import run_record


if TYPE_CHECKING:
    from datasets import Dataset

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.evaluation.rankings.ranked import Ranking

EACH_OWN = "that of each ranker"  # the history in the protocol of `mera compare`


def protocol(config: MeraConfig, cohort_codes: Sequence[str], target: str = "last") -> dict[str, str]:
    """The part `protocol` of a `metrics.json` of a model: what was to be predicted, among which codes, from what.

    Args:
        config (`MeraConfig`): of the model.
        cohort_codes (`Sequence[str]`): all codes of the dataset.
        target (`str`, defaults to `"last"`): the visits that were ranked, in words.
    """
    history = ["codes" if config.history_text == "code" else config.history_text]
    history += ["profile"] if config.use_profile else []
    history += ["text of visits"] if config.use_visit_text else []
    all_ranked = len(config.codes) == len(cohort_codes)
    candidates = "cohort" if all_ranked else f"{len(config.codes)} codes of the model"
    return {"target": target, "candidates": candidates, "history": " + ".join(history)}


@dataclass(frozen=True, eq=False)
class Setting:
    """The patients, codes and references shared by all rankers. Make one with [`Setting.open`].

    Attributes:
        prepared (`Prepared`): the dataset.
        split (`str`): `train`, `validation` or `test`.
        codes (`list[str]`): the candidates.
        samples (`list[Sample]`): the last visit of each patient, as indices into `codes`.
        ks (`list[int]`): k of recall@k and similar metrics, as far as the number of candidates allows.
        references (`Sequence[str]`): the reference rankers.
        seed (`int`): seed of the trained reference rankers, recorded as that of the run.
        started (`float`): when measuring began, by `time.perf_counter`.
    """

    prepared: Prepared
    split: str
    codes: list[str]
    samples: list[Sample]
    ks: list[int]
    references: Sequence[str] = REFERENCES
    seed: int = 0
    started: float = field(default_factory=time.perf_counter, repr=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        split: str,
        codes: list[str] | None = None,
        references: Sequence[str] = REFERENCES,
        seed: int = 0,
    ) -> Setting:
        """Open a prepared folder for the candidates of a model, or those of the dataset if `codes` is not given.

        Raises:
            [`~mera_hf.errors.InputError`]: for a split that does not exist or is empty, or fewer than 10 codes.
        """
        started, prepared = time.perf_counter(), Prepared.open(folder)
        who = f"the model ranks {len(codes)}" if codes is not None else f"the dataset has {len(prepared.codes)}"
        codes = prepared.codes if codes is None else codes
        samples = prepared.samples(split, codes=codes)
        if not samples:
            raise InputError(f"the split {split!r} of {folder} has no patient with two visits; prepare more patients.")
        ks = ks_up_to(len(codes))
        if not ks:
            raise InputError(f"{who} codes; recall@{KS[0]} takes {KS[0]} or more.")
        return cls(prepared, split, codes, samples, ks, references, seed, started)

    @property
    def rows(self) -> Dataset:
        """The split."""
        return self.prepared.splits[self.split]

    @cached_property
    def ids(self) -> list[str]:
        """The identifier of each sample's patient."""
        identifiers = self.rows["patient_id"]
        return [identifiers[sample.patient] for sample in self.samples]

    @property
    def validation(self) -> list[Sample]:
        """The last visits of the validation patients."""
        return self.prepared.samples("validation", codes=self.codes)

    def fit_references(self) -> dict[str, Callable[[Sequence[Sample]], Ranking]]:
        """The reference rankers, fitted on the train split, see `reference.fit_references`."""
        train = self.prepared.samples("train", "every", self.codes)
        return fit_references(train, len(self.codes), self.validation or train, self.seed, self.references)

    def described(self, protocol: dict[str, str], recipe: str | None) -> dict[str, Any]:
        """The parts `dataset`, `protocol` and `run` of a `metrics.json`; `run` has the time since opening."""
        return {
            "dataset": {
                "name": self.prepared.report["source"],
                "fingerprint": self.prepared.report["fingerprint"],
                "split": self.split,
                "split_sha256": split_hash(self.rows["patient_id"]),
                "patients": len(self.samples),
                "codes": len(self.prepared.codes),
            },
            "protocol": protocol,
            "run": run_record(recipe, self.seed, self.started),
        }
