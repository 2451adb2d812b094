"""Autoregressive decoding: naming the codes of a visit one by one, as language models do, instead of ranking them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mera_hf.data.samples import Sample
from mera_hf.evaluation.rankings.model import model_patients
from mera_hf.experiments.runs import Run
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import Patient, TimelineEncoder, batches_by_length, collate_pairs, collate_timelines


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

MOST = 20  # codes that are named


def decode_greedily(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    most: int = MOST,
    batch_size: int = 64,
    progress=None,
) -> tuple[np.ndarray, np.ndarray]:
    """Name the codes of the next visit one by one: always the likeliest code not named yet, given those that were.

    Args:
        model (`MeraForDiagnosis`): a trained model.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        samples (`Sequence[Sample]`): code indices are those of the model.
        most (`int`, defaults to 20): codes to name; all of the model's codes if it has fewer.
        batch_size (`int`, defaults to 64): patients in a forward pass.
        progress (*optional*): wraps the iterable of batches, such as `tqdm`.

    Returns:
        codes in the order in which they were named, int32 of shape (samples, most), and how many of them were named before
        EOV was likelier than the next one, of shape (samples,): with EOV, the list would have ended there.
    """
    most = min(most, model.config.num_codes)
    encoder = TimelineEncoder(model.config, tokenizer, _reading_length(model.config, most))
    patients = [encoder.read(patient) for patient in model_patients(samples, model.config.codes)]
    lengths = [sum(map(len, patient.visits)) for patient in patients]
    batches = batches_by_length(range(len(patients)), lengths, batch_size)
    named: list[list[int]] = [[] for _ in patients]
    ends = np.full(len(patients), most)
    training = model.training
    model.eval()
    for rows in progress(batches) if progress is not None else batches:
        for count in range(most):
            going = [(patients[row], named[row]) for row in rows]
            following, ended = _next_codes(model, encoder, tokenizer, going)
            for row, code, end in zip(rows, following, ended, strict=True):
                named[row].append(code)
                if end:
                    ends[row] = min(ends[row], count)
    model.train(training)
    return np.array(named, dtype=np.int32), ends


def _reading_length(config, most: int) -> int | None:
    """The longest history behind which there are positions for the codes that are named."""
    length, limit = config.reading_length(), config.position_limit
    return length if length is None or limit is None else min(length, limit - most)


@torch.no_grad()
def _next_codes(model, encoder, tokenizer, rows: list[tuple[Patient, list[int]]]) -> tuple[list[int], list[bool]]:
    """For each row, the likeliest code after those already named, and whether EOV is likelier."""
    timelines = [
        encoder.encode(Patient(patient.head, [*patient.visits, named], [*patient.tails, []]), len(patient.visits))
        for patient, named in rows
    ]
    pad, start = tokenizer.pad_token_id or 0, model.config.decoder_start_token_id
    batch = collate_timelines(timelines, pad) if start is None else collate_pairs(timelines, pad, start)
    last = torch.tensor([len(named) + 1 for _, named in rows]).cumsum(0) - 1  # the decision after all named codes
    batch |= {name: batch[name][last] for name in ("decision_index", "decision_visit")}
    output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name in FORWARD_INPUTS})
    logits = output.code_logits.float()  # (B, C)
    for row, (_, named) in enumerate(rows):
        logits[row, named] = -torch.inf
    best, code = logits.max(-1)
    return code.tolist(), (output.eov_logits.float() > best).tolist()


def as_ranking(named: np.ndarray, ends: np.ndarray, n_codes: int, width: int) -> np.ndarray:
    """The first `ends` named codes as a ranking of shape (patients, width), int32. The places after them are filled
    with indices from `n_codes` on, which are no patient's codes."""
    order = np.tile(np.arange(n_codes, n_codes + width, dtype=np.int32), (len(named), 1))
    inside = np.arange(named.shape[1]) < ends[:, None]  # (patients, most)
    order[:, : named.shape[1]][inside] = named[inside]
    return order


def decoded(run: Run, samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """[`decode_greedily`] by a run's checkpoint on the test patients, kept beside the run."""

    def measure() -> dict[str, np.ndarray]:
        named, ends = decode_greedily(
            *run.open(), samples, progress=lambda batches: tqdm(batches, f"decoding, {run.folder.name}", unit="batch")
        )
        return {"named": named, "ends": ends}

    arrays = run.kept("decoded", measure)
    return arrays["named"], arrays["ends"]
