"""A trained model as a ranker of prediction samples, and as the trainer's `compute_metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from mera_hf.data.samples import Sample
from mera_hf.evaluation.metrics import evaluate_ranking, ks_up_to
from mera_hf.evaluation.rankings.ranked import Cut, ModelRanking


if TYPE_CHECKING:
    import numpy as np
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis, MeraRanking


def rank_samples(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    batch_size: int = 64,
    description: str | None = None,
) -> ModelRanking:
    """Rank all codes for each sample by `model.rank`.

    Args:
        model (`MeraForDiagnosis`): the samples must use its code indices.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        samples (`Sequence[Sample]`): see `prediction_samples(rows, model.config.codes)`.
        batch_size (`int`, defaults to 64): samples in a forward pass.
        description (`str`, *optional*): title of a progress bar on standard error; no bar by default.
    """
    from tqdm import tqdm

    progress = None if description is None else lambda batches: tqdm(batches, desc=description, unit="batch")
    patients = model_patients(samples, model.config.codes)
    ranked = model.rank(patients, tokenizer, batch_size=batch_size, progress=progress)
    return as_ranking(ranked)


def as_ranking(ranked: MeraRanking) -> ModelRanking:
    """What `model.rank` gives, in numpy."""
    cut = Cut(ranked.set_sizes.numpy(), "EOV")
    # Half the memory of torch's indices: needed to hold all rankings of MIMIC-IV
    order = ranked.order.numpy().astype("int32")
    probabilities, logits, eov_logits = ranked.probabilities.numpy(), ranked.logits.numpy(), ranked.eov_logits.numpy()
    assert ranked.unread_visits is not None  # `rank` counts them
    return ModelRanking(order, cut, probabilities, logits, eov_logits, ranked.unread_visits.numpy())


def model_patients(samples: Sequence[Sample], codes: Sequence[str]) -> list[dict]:
    """The history of each sample as the model reads it: `profile` and `visits` of codes and text."""
    return [
        {
            "profile": sample.profile,
            "visits": [
                {"codes": [codes[code] for code in visit], "text": text}
                for visit, text in zip(sample.history, sample.texts or [None] * len(sample.history), strict=True)
            ],
        }
        for sample in samples
    ]


def trainer_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of [`~mera_hf.MeraTrainer`]: the metrics of `metrics.json` except those that need the history.

    Args:
        prediction (`EvalPrediction`): rankings (N, C) and set sizes (N,) as predictions, true codes (N, M) as labels,
            padded with -100.
    """
    order, set_sizes = cast("tuple[np.ndarray, np.ndarray]", prediction.predictions)
    samples = [
        Sample(row, [], [int(code) for code in codes if code >= 0], {})
        for row, codes in enumerate(prediction.label_ids)
    ]
    metrics = evaluate_ranking(order, set_sizes, samples, ks_up_to(order.shape[1]))
    return {
        name: value for name, value in metrics.items() if not name.startswith(("repeated", "new", "occurred", "not"))
    }
