"""Log-odds of codes and the cut at EOV, fitted on validation (this project's choice)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.evaluation.metrics import KS, evaluate_ranking
from mera_hf.evaluation.model_ranking import model_patients, rank_samples
from mera_hf.evaluation.reference import fit_threshold


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


CANDIDATES = 60  # codes of each patient, the best ones, that the log-odds are fitted on
FEWEST = 20  # patients that a fit needs


def calibrate(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset, rerank_depth: int = 0
) -> None:
    """Fit the log-odds of the codes and the EOV cut, and write them into the model's config.

    The log-odds are a logistic regression on the features of `MeraForDiagnosis.log_odds_features` over the first codes of
    each patient; the cut is the one with the best weighted F1 of the set. Neither changes which codes rank first, but for
    the order among the first `rerank_depth`.

    Args:
        model (`MeraForDiagnosis`): wrapped by PEFT or not; its config is changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        patients (`Dataset`): visits dataset, of the validation patients where there are enough; the last visit of each is
            predicted. With fewer than 20 patients nothing is fitted, and codes are cut where their logit is EOV's.
        rerank_depth (`int`, *optional*, defaults to 0): see [`MeraConfig`].
    """
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = model.config
    config.calibration, config.eov_offset, config.rerank_depth = None, 0.0, 0
    samples = prediction_samples(patients, config.codes, "last")
    if len(samples) < FEWEST:
        return
    features, hits = [], []
    for rows, output, batch in model.decisions(model_patients(samples, config.codes), tokenizer):
        columns = model.log_odds_features(output, batch["history_codes"], batch["history_values"])
        head = output.code_logits.topk(min(CANDIDATES, config.num_codes)).indices  # (B, K)
        features.append(torch.stack([column.gather(1, head) for column in columns], -1).flatten(0, 1).double().cpu())
        hits += [np.isin(codes, samples[row].target) for row, codes in zip(rows, head.cpu().numpy(), strict=True)]
    inputs = torch.cat(features).numpy()  # (N * K, 6), the last column is the constant
    regression = LogisticRegression(C=1.0, max_iter=1000).fit(inputs[:, :-1], np.concatenate(hits))
    config.calibration = [float(weight) for weight in (*regression.coef_[0], regression.intercept_[0])]
    config.rerank_depth = rerank_depth

    ranking = rank_samples(model, tokenizer, samples)
    odds = np.zeros(ranking.order.shape, dtype=np.float32)
    np.put_along_axis(odds, ranking.order.numpy(), ranking.probabilities.logit().numpy(), axis=1)
    # Just below the lowest log-odds that belong into the set
    config.eov_offset = float(np.nextafter(np.float32(fit_threshold(odds, samples)), np.float32(-np.inf)))


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
