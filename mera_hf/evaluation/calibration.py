"""Log-odds of codes and the cut at EOV, fitted on validation (this project's choice)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.evaluation.metrics import KS, evaluate_ranking
from mera_hf.evaluation.model_ranking import model_patients, rank_samples
from mera_hf.evaluation.reference import fit_threshold


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


CANDIDATES = 60  # codes of each patient, the best ones, that the log-odds are fitted on
FEWEST = 20  # predicted visits that a fit needs


def calibrate(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset, rerank_depth: int = 0
) -> bool:
    """Fit the log-odds of the codes, their value for weighted F1 and the EOV cut, and write them into the model.

    The log-odds are a logistic regression on the features of `MeraForDiagnosis.log_odds_features` over the first codes of
    each patient, the values come from [`value_rule`], and the cut is the one with the best weighted F1 of the set. None of
    them changes which codes rank first, but for the order among the first `rerank_depth`. With fewer than 20 patients the cut
    is where the sets are as large as the true ones altogether.

    Args:
        model (`MeraForDiagnosis`): wrapped by PEFT or not; its config and its ranking head are changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        patients (`Dataset`): visits dataset, of the validation patients where there are enough. The last visit of each is
            predicted, or with fewer than 20 patients every visit from the second on.
        rerank_depth (`int`, *optional*, defaults to 0): see [`MeraConfig`]; with 0 the value is the probability.

    Returns:
        whether anything was fitted: not with fewer than 20 visits, where codes are cut at EOV's own logit.
    """
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config, head = model.config, model.ranking_head
    config.calibration, config.eov_value, config.rerank_depth = None, 0.5, 0
    head.value_weight.fill_(1.0)
    head.value_threshold.zero_()
    samples = prediction_samples(patients, config.codes, "last")
    few = len(samples) < FEWEST
    if few:
        samples = prediction_samples(patients, config.codes, "every")
    if len(samples) < FEWEST:
        return False
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
    order, probabilities = ranking.order.numpy(), np.zeros(ranking.order.shape, dtype=np.float32)
    np.put_along_axis(probabilities, order, ranking.probabilities.numpy(), axis=1)
    values = probabilities
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
    if few:
        # Weighted F1 over a handful of patients is best with huge sets: make them as large as the true ones altogether
        lowest = -np.sort(-values, axis=None)[sum(len(sample.target) for sample in samples) - 1]
    else:
        lowest = fit_threshold(values, samples)
    # Just below the lowest value that belongs into a set
    config.eov_value = float(np.nextafter(np.float32(lowest), np.float32(-np.inf)))
    return True


def value_rule(probabilities: np.ndarray, candidates: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What naming a code is worth for weighted F1, as `weight * (probability - threshold)` (this project's choice).

    Weighted F1 is sum_c S_c 2 TP_c / (P_c + S_c) up to a factor, with S_c patients who have the code, P_c who are said to,
    and TP_c both. One more prediction of probability p adds 2 S_c / (P_c + S_c) * (p - TP_c / (P_c + S_c)) to first order,
    which is a weight and a threshold for each code. Both depend on who is predicted, and the other way round: averaged
    steps go to a point where they agree. Expected counts are used, so that nothing is fitted to single true codes.

    Args:
        probabilities (`np.ndarray` of shape (patients, codes)): P(code in the next visit).
        candidates (`np.ndarray` of shape (patients, K)): code indices that may be predicted.
        sizes (`np.ndarray` of shape (patients,)): number of codes to predict for each patient.

    Returns:
        weight and threshold of each code, float32 of shape (codes,).
    """
    import numpy as np

    codes = probabilities.shape[1]
    chances = np.take_along_axis(probabilities, candidates, axis=1).astype(np.float64)  # (patients, K)
    support = probabilities.sum(axis=0, dtype=np.float64)
    weight, threshold = np.ones(codes), np.zeros(codes)
    predicted, hits = np.zeros(codes), np.zeros(codes)
    for step in range(30):
        values = weight[candidates] * (chances - threshold[candidates])
        places = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
        chosen = places < sizes[:, None]
        now = np.bincount(candidates[chosen], minlength=codes)
        right = np.bincount(candidates[chosen], weights=chances[chosen], minlength=codes)
        share = 2 / (step + 2)
        predicted, hits = predicted + share * (now - predicted), hits + share * (right - hits)
        # One more of each keeps codes that are hardly ever seen near the average
        threshold = hits / (predicted + support + 1)
        weight = 2 * (support + 1) / (predicted + support + 2)
    return weight.astype(np.float32), threshold.astype(np.float32)


def enough_to_calibrate(dataset: DatasetDict) -> Dataset:
    """The validation patients, or the training patients where there are fewer than 20 of them: a cut fitted on patients
    that were trained on is a little too sure of itself, and better than none."""
    return dataset["validation"] if len(dataset["validation"]) >= FEWEST else dataset["train"]


def measure(model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset) -> dict[str, float]:
    """The metrics of `evaluate_ranking` for the last visit of each patient; empty without patients."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    samples = prediction_samples(patients, model.config.codes, "last")
    if not samples:
        return {}
    ranking = rank_samples(model, tokenizer, samples)
    ks = [k for k in KS if k <= ranking.order.shape[1]]
    return evaluate_ranking(ranking.order.numpy(), ranking.set_sizes.numpy(), samples, ks)
