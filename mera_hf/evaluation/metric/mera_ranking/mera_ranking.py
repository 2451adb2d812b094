"""The metrics of next-visit ranking as a module of `evaluate`: `evaluate.load("<path or Hub>/mera_ranking")`."""

import datasets
import evaluate
import numpy as np

from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking


_CITATION = """\
@inproceedings{ma2025memorize,
  title     = {Memorize and Rank: Elevating Large Language Models for Clinical Diagnosis Prediction},
  author    = {Ma, Mingyu Derek and others},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2025},
  note      = {arXiv:2501.17326}
}
"""

_DESCRIPTION = """\
Measures rankings of the codes of a patient's next visit: recall@k, precision@k, nDCG@k, weighted F1 and the other metrics of
`mera_hf`, by the same functions. It reads rankings and never scores, so that every ranker is measured alike; ties have to be
broken before.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[str]]`): for each patient the ranked codes, the best first, none twice. All rankings have the same
        length, at least the largest of `ks`, of the set sizes and of the numbers of true codes.
    references (`list[list[str]]`): for each patient the codes of the visit that was to be predicted, at least one. A true code
        that is not ranked counts as missed; a code given twice counts once.
    histories (`list[list[str]]`, *optional*): for each patient every code of the earlier visits. With them recall is split
        into repeated and new codes.
    set_sizes (`list[int]`, *optional*): for each patient the number of codes that the ranker predicts, `ranking[:set_size]`.
        With them the metrics of the set are measured (`weighted_f1_eov`, `mean_set_size`, ...).
    ks (`tuple[int, ...]`, defaults to `(10, 20)`): where rankings are cut for recall@k and its like.

`histories` and `set_sizes` are given to `compute`, for all patients in the order of the rankings, also where the rankings were
added one by one by `add` or `add_batch`.

Returns:
    `dict[str, float]`: fractions, not percent; sizes in codes. Each metric is defined in `mera_hf/evaluation/metrics.py`.

Raises:
    [`~mera_hf.errors.InputError`]: naming the argument and the patient, counted from 0: a code ranked twice, rankings of
        different lengths, no true code, a `k` beyond the ranking, lists that do not fit the rankings.

Examples:

    >>> import evaluate
    >>> metric = evaluate.load("mera_hf/evaluation/metric/mera_ranking", keep_in_memory=True)
    >>> results = metric.compute(
    ...     predictions=[["ICD9CM:428", "ICD9CM:250", "ICD9CM:401"], ["ICD9CM:401", "ICD9CM:414", "ICD9CM:250"]],
    ...     references=[["ICD9CM:428", "ICD9CM:401"], ["ICD9CM:414"]],
    ...     histories=[["ICD9CM:428"], ["ICD9CM:250"]],
    ...     set_sizes=[2, 1],
    ...     ks=(1, 2),
    ... )
    >>> {name: results[name] for name in ("recall@1", "recall@2", "repeated_recall@2", "new_recall@2", "mean_set_size")}
    {'recall@1': 0.25, 'recall@2': 0.75, 'repeated_recall@2': 0.25, 'new_recall@2': 0.5, 'mean_set_size': 1.5}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeraRankingMetric(evaluate.Metric):
    def _info(self):
        codes = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": codes, "references": codes}),
            reference_urls=["https://huggingface.co/papers/2501.17326"],
        )

    def _compute(self, predictions, references, histories=None, set_sizes=None, ks=(10, 20)):
        if not predictions:
            raise InputError("`predictions` is empty: there is no patient to measure.")
        length = len(predictions[0])
        for patient, (ranking, true) in enumerate(zip(predictions, references, strict=True)):
            for name, codes in (("predictions", ranking), ("references", true)):
                if any(code.startswith(("[", "(")) for code in codes):  # `evaluate` writes a list out as text
                    raise InputError(f"`{name}`, patient {patient}: expected one list of codes, not a list of lists.")
            if len(set(ranking)) < len(ranking):
                twice = next(code for place, code in enumerate(ranking) if code in ranking[:place])
                raise InputError(f"`predictions`, patient {patient}: {twice!r} is ranked twice. List each code once.")
            if len(ranking) != length:
                raise InputError(
                    f"`predictions`, patient {patient}: {len(ranking)} ranked codes, but patient 0 has {length}. Rank the "
                    "same number of codes for every patient."
                )
            if not true:
                raise InputError(
                    f"`references`, patient {patient}: no true code, so recall is undefined. Leave the patient out."
                )
        if set_sizes is not None and len(set_sizes) != len(predictions):
            raise InputError(f"`set_sizes` has {len(set_sizes)} entries, but {len(predictions)} patients are ranked.")
        _check_histories(histories, len(predictions))

        given = [predictions, references, histories or []]
        names = sorted({code for lists in given for codes in lists for code in codes})
        index = {code: i for i, code in enumerate(names)}
        order = np.array([[index[code] for code in ranking] for ranking in predictions])  # (patients, length)
        samples = [
            Sample(
                patient,
                [[index[code] for code in histories[patient]]] if histories else [],
                [index[code] for code in dict.fromkeys(true)],
                {},
            )
            for patient, true in enumerate(references)
        ]
        metrics = evaluate_ranking(order, set_sizes, samples, ks)
        if histories is None:  # without them every true code would be called new
            split = ("repeated_", "new_", "occurred@", "not_occurred@")
            metrics = {name: value for name, value in metrics.items() if not name.startswith(split)}
        return metrics


def _check_histories(histories, patients: int) -> None:
    if histories is None:
        return
    if len(histories) != patients:
        raise InputError(f"`histories` has {len(histories)} entries, but {patients} patients are ranked.")
    for patient, codes in enumerate(histories):
        if isinstance(codes, str) or not all(isinstance(code, str) for code in codes):
            raise InputError(
                f"`histories`, patient {patient}: give one list of codes, all earlier visits together, not "
                f"{'a string' if isinstance(codes, str) else 'a list of visits'}."
            )
