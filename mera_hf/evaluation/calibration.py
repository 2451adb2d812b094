"""Log-odds of codes and the cut at EOV, fitted on validation (this project's choice)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.evaluation.metrics import KS, evaluate_ranking
from mera_hf.evaluation.model_ranking import model_patients, rank_samples
from mera_hf.evaluation.reference import fit_threshold


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


CANDIDATES = 60  # codes of each patient, the best ones, that the log-odds are fitted on
FEWEST = 20  # patients that a fit needs


def calibrate(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, validation: Dataset, rerank_depth: int = 0
) -> dict[str, float]:
    """Fit the log-odds of the codes and the EOV cut on validation, and write them into the model's config.

    The log-odds are a logistic regression on the features of `MeraForDiagnosis.log_odds_features` over the first codes of
    each patient; the cut is the one with the best weighted F1 of the set. Neither changes which codes rank first, but for
    the order among the first `rerank_depth`.

    Args:
        model (`MeraForDiagnosis`): wrapped by PEFT or not; its config is changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        validation (`Dataset`): visits dataset of the validation patients; the last visit of each is predicted. With fewer
            than 20 patients nothing is fitted.
        rerank_depth (`int`, *optional*, defaults to 0): see [`MeraConfig`].

    Returns:
        the metrics of `evaluate_ranking` on validation after the fit; empty without validation patients.
    """
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = model.config
    config.calibration, config.eov_offset, config.rerank_depth = None, 0.0, 0
    samples = prediction_samples(validation, config.codes, "last")
    if len(samples) >= FEWEST:
        rows, features, targets, heads = [], [], [], []
        for batch_rows, output, batch in model.decisions(model_patients(samples, config.codes), tokenizer):
            rows += batch_rows
            columns = model.log_odds_features(output, batch["history_codes"], batch["history_values"])
            head = output.code_logits.topk(min(CANDIDATES, config.num_codes)).indices  # (B, K)
            features.append(torch.stack([column.gather(1, head) for column in columns], -1).double().cpu())
            heads.append(head.cpu())
        for row, head in zip(rows, torch.cat(heads).tolist(), strict=True):
            targets.append(np.isin(head, samples[row].target))
        inputs = torch.cat(features).flatten(0, 1).numpy()  # (N * K, 6), the last column is the constant
        regression = LogisticRegression(C=1.0, max_iter=1000).fit(inputs[:, :-1], np.concatenate(targets))
        config.calibration = [float(weight) for weight in (*regression.coef_[0], regression.intercept_[0])]
        config.rerank_depth = rerank_depth
    if not samples:
        return {}
    ranking = rank_samples(model, tokenizer, samples)
    odds = np.full(ranking.order.shape, -np.inf, dtype=np.float32)
    np.put_along_axis(odds, ranking.order.numpy(), ranking.probabilities.logit().numpy(), axis=1)
    if len(samples) >= FEWEST:
        # Just below the lowest log-odds that belong into the set
        config.eov_offset = float(np.nextafter(np.float32(fit_threshold(odds, samples)), np.float32(-np.inf)))
    sizes = (odds > config.eov_offset).sum(1)
    return evaluate_ranking(ranking.order.numpy(), sizes, samples, [k for k in KS if k <= ranking.order.shape[1]])
