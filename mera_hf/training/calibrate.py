"""Log-odds of codes, the EOV cut and sets of known coverage, fitted on validation (this project's choice)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import fit_to_ranking
from mera_hf.evaluation.metrics import evaluate_ranking, ks_up_to
from mera_hf.evaluation.rankings.fit import CANDIDATES, FEWEST, value_rule
from mera_hf.evaluation.rankings.model import model_patients, rank_samples
from mera_hf.evaluation.rankings.ranked import by_code
from mera_hf.evaluation.rankings.reference import fit_threshold
from mera_hf.training.wrapped import base_model, tokenizer_of


if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    from mera_hf.data.samples import Sample
    from mera_hf.evaluation.rankings.ranked import ModelRanking
    from mera_hf.modeling_mera import MeraForDiagnosis


@dataclass(frozen=True)
class Calibration:
    """What [`calibrate`] has fitted.

    Attributes:
        visits (`int`): predicted visits available for fitting probabilities and cut.
        cut (`bool`): whether they were fitted: with fewer than 20 visits, codes are cut at EOV's own logit.
        conformal (`bool`): whether sets of known coverage were fitted: not with fewer than 20 patients.
    """

    visits: int
    cut: bool
    conformal: bool


def calibrate(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset, rerank_depth: int = 0
) -> Calibration:
    """
    Fit what a trained model needs besides its ranking, and write it into the model: the probabilities of the codes,
    where EOV cuts the ranking into a set, and the thresholds of sets of known coverage. `mera train` ends with this.

    Args:
        model (`MeraForDiagnosis`): trained to rank, wrapped by PEFT or not; its config and its ranking head are changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        patients (`Dataset`): visits dataset of the validation patients, who were not trained on. The last visit of
            each is predicted; with fewer than 20 patients, probabilities and cut use every visit from the second on.
        rerank_depth (`int`, *optional*, defaults to 0): this many codes at the top of a ranking are reordered by what
            they are worth for weighted F1, see [`MeraConfig`].

    Returns:
        [`Calibration`]: what was fitted, which depends on the number of patients.

    Raises:
        [`InputError`]: for the tokenizer of another model, if no patient has two visits, for a code that the model
            does not know, or a negative `rerank_depth`.

    ```python
    >>> trainer.train()
    >>> mera_hf.calibrate(model, tokenizer, dataset["validation"])
    Calibration(visits=1639, cut=True, conformal=True)
    >>> model.save_pretrained("runs/mera")
    ```
    """
    tokenizer_of(model, tokenizer)
    if rerank_depth < 0:
        raise InputError(f"`rerank_depth` is {rerank_depth}; it is 0 or more.")
    samples = prediction_samples(patients, model.config.codes, "last")
    if not samples:
        raise InputError(
            "`patients` has nobody with two visits, so there is no visit to predict; give other patients."
        )
    return _fit(model, tokenizer, patients, samples, rerank_depth)[0]


def calibrate_and_measure(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, dataset: DatasetDict, rerank_depth: int = 0
) -> tuple[Calibration, dict[str, float]]:
    """[`calibrate`] on the validation patients of a prepared dataset, and [`measure`] of the same ranking of them.

    With fewer than 20 of them, probabilities and cut are fitted on the training patients: such a cut is slightly
    overconfident, but better than none.
    """
    validation = dataset["validation"]
    samples = prediction_samples(validation, model.config.codes, "last")
    patients = validation if len(validation) >= FEWEST else dataset["train"]
    calibration, ranking = _fit(model, tokenizer, patients, samples, rerank_depth)
    return calibration, measure(ranking, samples)


def _fit(
    model, tokenizer, patients: Dataset, samples: Sequence[Sample], rerank_depth: int
) -> tuple[Calibration, ModelRanking | None]:
    """Fit probabilities and cut on the patients, and sets of known coverage on the samples; return their ranking."""
    model = base_model(model)
    visits = fit_cut(model, tokenizer, patients, rerank_depth)
    ranking = rank_samples(model, tokenizer, samples) if samples else None
    return Calibration(visits, visits >= FEWEST, fit_to_ranking(model.config, ranking, samples)), ranking


def fit_cut(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset, rerank_depth: int = 0
) -> int:
    """Fit the log-odds of the codes, their value for weighted F1 and the EOV cut, and write them into the model.

    The log-odds are a logistic regression on the features of `MeraForDiagnosis.log_odds_features` over the first codes of
    each patient, the values come from [`value_rule`], and the cut is the one with the best weighted F1 of the set.
    They change no ranking except the order of the first `rerank_depth` codes. With fewer than 20 patients the cut is
    where the sets are, in total, as large as the true ones.

    Args:
        model (`MeraForDiagnosis`): wrapped by PEFT or not; its config and its ranking head are changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        patients (`Dataset`): visits dataset, of the validation patients if there are enough. The last visit of each is
            predicted; with fewer than 20 patients, every visit from the second on.
        rerank_depth (`int`, *optional*, defaults to 0): see [`MeraConfig`]. With 0 the cut is an offset of EOV's logit, and
            otherwise one of the values.

    Returns:
        the number of predicted visits; if fewer than 20, nothing is fitted, and codes are cut at EOV's own logit.
    """
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    model = base_model(model)
    config, head = model.config, model.ranking_head
    config.calibration, config.eov_value, config.rerank_depth = None, 0.5, 0
    config.eov_offset = None if rerank_depth else 0.0
    head.value_weight.fill_(1.0)
    head.value_threshold.zero_()
    samples = prediction_samples(patients, config.codes, "last")
    few = len(samples) < FEWEST
    if few:
        samples = prediction_samples(patients, config.codes, "every")
    if len(samples) < FEWEST:
        return len(samples)
    features, hits = [], []
    for rows, output, batch in model.decisions(model_patients(samples, config.codes), tokenizer):
        columns = model.log_odds_features(output, batch["history_codes"], batch["history_values"])
        best = output.code_logits.topk(min(CANDIDATES, config.num_codes)).indices  # (B, K)
        features.append(torch.stack([column.gather(1, best) for column in columns], -1).flatten(0, 1).double().cpu())
        hits += [np.isin(codes, samples[row].target) for row, codes in zip(rows, best.cpu().numpy(), strict=True)]
    inputs = torch.cat(features).numpy()  # (N * K, 6), the last column is the constant
    regression = LogisticRegression(C=1.0, max_iter=1000).fit(inputs[:, :-1], np.concatenate(hits))
    config.calibration = [float(weight) for weight in (*regression.coef_[0], regression.intercept_[0])]

    ranking = rank_samples(model, tokenizer, samples)
    assert ranking.probabilities is not None
    order, probabilities = ranking.order, by_code(ranking.order, ranking.probabilities)
    if rerank_depth:
        sizes = np.array([len(sample.target) for sample in samples])
        weight, threshold = value_rule(probabilities, order[:, :rerank_depth], sizes)
        head.value_weight.copy_(torch.from_numpy(weight))
        head.value_threshold.copy_(torch.from_numpy(threshold))
        values = np.full_like(probabilities, -np.inf)
        first = order[:, :rerank_depth]
        chosen = np.take_along_axis(probabilities, first, axis=1)
        np.put_along_axis(values, first, (weight[first] * (chosen - threshold[first])).astype(np.float32), axis=1)
        config.rerank_depth = rerank_depth
    else:
        values = by_code(order, ranking.margins())
    if few:
        # With a handful of patients, huge sets have the best weighted F1: so match the total size of the true ones
        lowest = -np.sort(-values, axis=None)[sum(len(sample.target) for sample in samples) - 1]
    else:
        lowest = fit_threshold(values, samples)
    # Just below the lowest value that belongs in a set
    cut = float(np.nextafter(np.float32(lowest), np.float32(-np.inf)))
    if rerank_depth:
        config.eov_value = cut
    else:
        config.eov_offset = cut
    return len(samples)


def measure(ranking: ModelRanking | None, samples: Sequence[Sample]) -> dict[str, float]:
    """The metrics of `evaluate_ranking` for patients who have been ranked; empty without patients."""
    if ranking is None:
        return {}
    return evaluate_ranking(ranking.order, ranking.set_sizes, samples, ks_up_to(ranking.order.shape[1]))
