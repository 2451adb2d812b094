"""`pipeline("diagnosis-prediction")`: from visits as people write them to ranked diagnoses with their names."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from numbers import Real
from typing import Any, cast

import torch
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .spelling_mera import CodeReader, split_visits


TASK = "diagnosis-prediction"
_PROFILE = ("sex", "age", "race")
_FIELDS = ("patient_id", "profile", *_PROFILE, "visits")
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}
_RANKING = ("top_k", "threshold", "coverage", "coverage_of", "explain")
_COARSE_FIRST = ("chapter", "block", "category")  # subcategories follow; a saved config has them in alphabetical order
_BATCH_SIZE = 64


class DiagnosisPredictionPipeline(Pipeline):
    """
    Ranks the diagnoses of the next visit of one patient or of many. For research; not for clinical decisions.

    Example:

        >>> import mera_hf
        >>> from transformers import pipeline
        >>> predict = pipeline("diagnosis-prediction", model="mera-demo/model")
        >>> result = predict({"visits": [["250.00", "401.9"], ["428.0"]], "sex": "F", "age": 72}, top_k=5)
        >>> for row in result["ranking"]:
        ...     print(row["rank"], row["code"], f"{row['probability']:.1%}", row["description"])

    Without `mera_hf`, a checkpoint that carries its code loads by `pipeline(..., trust_remote_code=True)`.

    A patient is a dict, or the string of its visits:

    - `visits`: oldest first, `"250.00 401.9; 428.0"`, `[["250.00", "401.9"], ["428.0"]]` or `[{"codes": [...]}, ...]`. There
      may be none. Codes come in any spelling (25000, 250.00, ICD9CM:250.00). One that the model does not rank is read as the
      nearest code above it that the model has, see [`CodeReader`]; `visits` of the result says what was read.
    - `sex` (`"F"` or `"M"`), `age` (years at the first visit) and `race`, where known, or all three below `profile`.

    One patient gives one dict, a list of patients a list of them, and any other iterable, such as a generator or a
    `datasets.Dataset`, an iterator that reads a batch at a time.

    Args (at the call, or of [`~transformers.pipeline`] for all calls):
        icd (`str`, *optional*): `"9"` or `"10"`, the version of codes that do not say it, where the model knows both.
        top_k (`int`, *optional*, defaults to 20): length of the ranking; `None` for all codes.
        threshold (`float`, *optional*): the set holds the codes that are at least so probable, instead of those above EOV.
        coverage, coverage_of (*optional*): sets of a known coverage instead, see [`MeraForDiagnosis.decide`].
        explain (`int`, *optional*): also say what moved the first so many codes, see [`MeraForDiagnosis.explain`].
        batch_size (`int`, *optional*, defaults to 64): patients in a forward pass.

    Returns, for each patient, a dict of
        `visits` (`list[list[str]]`): the codes as they were understood.
        `unread_visits` (`int`): so many of the oldest visits were not read, as the history is longer than the model reads, see
            `max_length` of [`MeraConfig`]; their codes count in the history term alone.
        `set_size` (`int`): codes in the predicted set, which may be more than `top_k`.
        `threshold`, or `coverage` and `coverage_of`: where given.
        `ordered_for_weighted_f1` (`int`): so many of the first stand in the order of their worth for weighted F1, see
            `MeraConfig.rerank_depth`.
        `ranking` (`list[dict]`): `rank` (from 1), `code`, `description`, `probability` (that the next visit records it),
            `above_eov` (whether it is in the set; `in_set` where `threshold` or `coverage` make it), `in_history`, and
            `levels`, the groups of the ICD tree around it: `{"chapter": "ICD9CM:390-459 Diseases of ...", ...}`.
        `explanation` (`dict`): where `explain` is given.

    Raises:
        `ValueError`: for a patient that cannot be read, by its number from 1, the visit and the code; for a parameter out of
            range; for a model that does not rank codes.
    """

    model: Any  # a `MeraForDiagnosis`
    # `Pipeline` has `None` here and no type, so that nothing else would fit
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        if config.model_type != "mera" or not config.num_codes or not self.model.ranking_head.is_trained:
            raise ValueError(
                f"`model` is a {config.model_type} model that was not trained to rank codes: `mera train`."
            )
        # Reading a field of a config is slow
        self._codes, self._descriptions = config.codes, config.descriptions
        self._levels = _levels(config)
        self._reader = CodeReader(self._codes)

    # `Pipeline` types the parameters of its steps as `**parameters: dict`, which no pipeline's own parameters are
    def __call__(  # type: ignore[override]
        self, inputs: Mapping | str | Iterable, batch_size: int | None = None, **kwargs: Any
    ):
        own = self._preprocess_params, self._forward_params, self._postprocess_params
        parameters = [{**ours, **new} for ours, new in zip(own, self._sanitize_parameters(**kwargs), strict=True)]
        batch_size = batch_size or self._batch_size or _BATCH_SIZE
        if isinstance(inputs, (Mapping, str)):
            return next(self._stream(iter([inputs]), batch_size, parameters))
        results = self._stream(iter(inputs), batch_size, parameters)
        return list(results) if isinstance(inputs, (list, tuple)) else results

    def _stream(self, patients: Iterator, batch_size: int, parameters: list[dict]) -> Iterator[dict]:
        first = 1
        while batch := list(islice(patients, batch_size)):
            yield from self.run_single({"first": first, "patients": batch}, *parameters)
            first += len(batch)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        unknown = parameters.keys() - {"icd", *_RANKING}
        if unknown:
            raise ValueError(f"`{min(unknown)}` is not a parameter; there are icd, {', '.join(_RANKING)}.")
        reading = {name: value for name, value in parameters.items() if name == "icd"}
        return reading, {name: value for name, value in parameters.items() if name in _RANKING}, {}

    def preprocess(self, inputs: dict, icd: str | int | None = None) -> dict:  # type: ignore[override]
        """Read a batch of patients as rows of a visits dataset."""
        version = self._reader.version(icd)
        patients = []
        for number, patient in enumerate(inputs["patients"], start=inputs["first"]):
            try:
                patients.append(self._patient(patient, version))
            except ValueError as error:
                raise ValueError(f"patient {number}{error}") from error
        return {"patients": patients}

    def _patient(self, patient: Any, version: str | None) -> dict:
        if isinstance(patient, str):
            patient = {"visits": patient}
        if not isinstance(patient, Mapping):
            raise ValueError(
                f" is {type(patient).__name__}; give a dict such as {{'visits': [['250.00'], ['428.0']]}}."
            )
        unknown = [name for name in patient if name not in _FIELDS]
        if unknown or "visits" not in patient:
            fault = f"has the field {unknown[0]!r}" if unknown else "has no 'visits'"
            raise ValueError(f" {fault}; the fields are {', '.join(_FIELDS)}.")
        profile = {**(patient.get("profile") or {}), **{name: patient[name] for name in _PROFILE if name in patient}}
        visits = patient["visits"]
        if isinstance(visits, str):
            visits = split_visits(visits)
        visits = [visit if isinstance(visit, Mapping) else {"codes": visit} for visit in visits]
        try:
            read = self._reader.read_visits([visit.get("codes") for visit in visits], version)
        except ValueError as error:
            raise ValueError(f", {error}") from error
        visits = [{**visit, "codes": codes} for visit, codes in zip(visits, read, strict=True)]
        return {"profile": _profile(profile), "visits": visits}

    def _forward(  # type: ignore[override]
        self,
        inputs: dict,
        top_k: int | None = 20,
        threshold: float | None = None,
        coverage: float | None = None,
        coverage_of: str = "codes",
        explain: int | None = None,
    ) -> dict:
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` is {top_k}; it must be 1 or more.")
        if threshold is not None and coverage is not None:
            raise ValueError("`threshold` and `coverage` both make the set; give one of the two.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` is {threshold}; give a probability between 0 and 1.")
        patients, tokenizer = inputs["patients"], self.tokenizer
        # A set by threshold may hold codes from anywhere in the ranking
        depth = top_k if threshold is None else None
        options = {"coverage": coverage, "coverage_of": coverage_of}
        ranking = self.model.rank(patients, tokenizer, top_k=depth, batch_size=len(patients), **options)
        sizes = ranking.set_sizes  # (N,)
        inside = torch.arange(ranking.order.shape[1]) < sizes[:, None]  # (N, K)
        if threshold is not None:
            inside = ranking.probabilities >= threshold
            sizes = inside.sum(-1)
        explanations = [self.model.explain(patient, tokenizer, top_k=explain) for patient in patients if explain]
        return {
            "patients": patients,
            "how": {"threshold": threshold} if threshold is not None else options if coverage is not None else {},
            "set_sizes": sizes.tolist(),
            "unread_visits": ranking.unread_visits.tolist(),
            "rows": [part[:, :top_k].tolist() for part in (ranking.order, ranking.probabilities, inside)],
            "explanations": explanations,
        }

    def postprocess(self, outputs: dict) -> list[dict]:  # type: ignore[override]
        """The results of a batch of patients in words."""
        how, results = outputs["how"], []
        mark = "in_set" if how else "above_eov"
        columns = (outputs[name] for name in ("patients", "set_sizes", "unread_visits"))
        for patient, size, unread, *rows in zip(*columns, *outputs["rows"], strict=True):
            visits = [visit["codes"] for visit in patient["visits"]]
            history = {code for visit in visits for code in visit}
            ranking = [
                {
                    "rank": rank,
                    "code": self._codes[index],
                    "description": self._descriptions[index],
                    "probability": probability,
                    mark: inside,
                    "in_history": self._codes[index] in history,
                    "levels": dict(self._levels[index]),
                }
                for rank, (index, probability, inside) in enumerate(zip(*rows, strict=True), start=1)
            ]
            by_worth = 0 if "coverage" in how else min(self.model.config.rerank_depth, len(ranking))
            result = {"visits": visits, "unread_visits": unread, "set_size": size, **how}
            results.append({**result, "ordered_for_weighted_f1": by_worth, "ranking": ranking})
        for result, explanation in zip(results, outputs["explanations"], strict=False):
            result["explanation"] = explanation.to_dict()
        return results

    def save_pretrained(self, save_directory, **kwargs):
        """Write model, tokenizer and their code, so that the folder loads by `trust_remote_code=True` where `mera_hf` is not
        installed; arguments as in [`~transformers.Pipeline.save_pretrained`], which `push_to_hub` calls too."""
        config, model = type(self.model.config), type(self.model)
        before = config._auto_class, model._auto_class  # on the classes the registration would outlast this
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            config._auto_class, model._auto_class = before
            for name in ("auto_map", "custom_pipelines"):  # they name files of that folder
                vars(self.model.config).pop(name, None)


def _profile(given: Mapping) -> dict:
    """Sex, age and race, each `None` where it is not known."""
    unknown = [name for name in given if name not in _PROFILE]
    if unknown:
        raise ValueError(f": the profile has the field {unknown[0]!r}; the fields are {', '.join(_PROFILE)}.")
    sex, age, race = (given.get(name) for name in _PROFILE)
    if sex is not None and str(sex).upper() not in _SEXES:
        raise ValueError(f": `sex` is {sex!r}; give 'F' or 'M', or leave it out.")
    if age is not None and not (isinstance(age, Real) and 0 <= cast("float", age) <= 130):
        raise ValueError(f": `age` is {age!r}; give the age in years, between 0 and 130, or leave it out.")
    if race is not None and not isinstance(race, str):
        raise ValueError(f": `race` is {race!r}; give a word, or leave it out.")
    return {"sex": sex and _SEXES[str(sex).upper()], "age": age, "race": race}


def _levels(config) -> list[dict[str, str]]:
    """For each code the groups that hold it by level, the coarsest first."""
    order = {level: place for place, level in enumerate(_COARSE_FIRST)}
    groups, names = config.level_groups or {}, config.group_names
    levels: list[dict[str, str]] = [{} for _ in config.codes]
    for level in sorted(groups, key=lambda level: (order.get(level, len(order)), level)):
        for of_code, group in zip(levels, groups[level], strict=True):
            if group >= 0:
                of_code[level] = names[level][group]
    return levels


# Another checkpoint may have brought its copy of this file
PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)
PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=DiagnosisPredictionPipeline, pt_model=AutoModel, type="text")

__all__ = ["TASK", "DiagnosisPredictionPipeline"]
