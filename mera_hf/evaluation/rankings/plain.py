"""The ranking of the plain language model inside, and how much it loses against the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import recall_curve
from mera_hf.evaluation.rankings.model import model_patients
from mera_hf.timeline_mera import TimelineEncoder, collate_timelines


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

KS = (10, 20)


def rank_plain(
    model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Sequence[dict], top_k: int, batch_size: int
) -> torch.Tensor:
    """Rank codes by the log-probability that the language model inside gives to their tokens, with ordinary positions.

    Returns:
        code indices, best first, shape `(patients, top_k)`.
    """
    import torch
    from tqdm import tqdm

    encoder = TimelineEncoder(model.config, tokenizer)
    timelines = [encoder.encode_history(patient) for patient in patients]
    by_length = sorted(range(len(timelines)), key=lambda row: len(timelines[row].input_ids))
    order = torch.empty(len(timelines), top_k, dtype=torch.long)
    starts = range(0, len(by_length), batch_size)
    codes = slice(model.config.code_token_start, model.config.eov_token_id)
    for start in tqdm(starts, desc="plain language model", unit="batch"):
        rows = by_length[start : start + batch_size]
        batch = collate_timelines([timelines[row] for row in rows], tokenizer.pad_token_id or 0, "left")
        mask = batch["attention_mask"].to(model.device)
        with torch.no_grad():
            logits = model.language_model(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1, codes]  # (B, C)
        order[rows] = logits.float().argsort(dim=-1, descending=True, stable=True)[:, :top_k].cpu()
    return order


def measure_export(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict],
    split: str,
    batch_size: int = 64,
) -> dict:
    """Recall@10 and @20 of the whole model and of the language model inside, for the last visit of each patient.

    Args:
        model (`MeraForDiagnosis`): in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        rows (`datasets.Dataset` or iterable of `dict`): rows of a visits dataset.
        split (`str`): name of the rows in the result.
        batch_size (`int`, defaults to 64): patients in a forward pass.

    Returns:
        `dict`: `split`, `patients` and `recall`, which maps `recall@10` and `recall@20` to (whole, plain).

    Raises:
        [`~mera_hf.errors.InputError`]: without a patient with two visits, or for a model of fewer than 10 codes.
    """
    from tqdm import tqdm

    codes = model.config.codes
    samples = prediction_samples(rows, codes, "last")
    if not samples:
        raise InputError(f"the split {split!r} has no patient with two visits; measure on another (`--split`).")
    ks = [k for k in KS if k <= len(codes)]
    if not ks:
        raise InputError(f"the model ranks {len(codes)} codes; recall@{KS[0]} takes {KS[0]} or more.")
    width = max(*ks, *(len(sample.target) for sample in samples))  # a visit may have more codes than the largest k
    patients = model_patients(samples, codes)
    whole = model.rank(
        patients,
        tokenizer,
        top_k=width,
        batch_size=batch_size,
        progress=lambda batches: tqdm(batches, desc="whole model", unit="batch"),
    ).order
    plain = rank_plain(model, tokenizer, patients, width, batch_size)
    curves = [recall_curve(order.numpy(), samples, max(ks)) for order in (whole, plain)]
    recall = {f"recall@{k}": tuple(float(curve[k - 1]) for curve in curves) for k in ks}
    return {"split": split, "patients": len(samples), "recall": recall}
