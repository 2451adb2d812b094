"""Autoregressive decoding: naming the codes of a visit one by one, as language models do, instead of ranking them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample
from mera_hf.evaluation.model_ranking import model_patients
from mera_hf.timeline_mera import Patient, TimelineEncoder, batches_by_length, collate_pairs, collate_timelines


if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from mera_hf.evaluation.experiments.runs import Run
    from mera_hf.modeling_mera import MeraForDiagnosis


def decode_greedily(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    most: int = 20,
    stop_at_eov: bool = True,
    batch_size: int = 256,
    progress=None,
) -> list[list[int]]:
    """Name the codes of the next visit one by one: always the likeliest code that was not named, until EOV is likelier.

    Args:
        model (`MeraForDiagnosis`): a trained model.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        samples (`Sequence[Sample]`): code indices are those of the model.
        most (`int`, defaults to 20): codes to name at most.
        stop_at_eov (`bool`, defaults to `True`): whether EOV ends the list; else `most` codes are named.
        batch_size (`int`, defaults to 256): patients in a forward pass.
        progress (*optional*): called with an iterable of batches and returning it, such as `tqdm`.

    Returns:
        `list[list[int]]`: code indices in the order in which they were named.
    """
    import torch

    encoder = TimelineEncoder(model.config, tokenizer)
    patients = [encoder.read(patient) for patient in model_patients(samples, model.config.codes)]
    lengths = [sum(map(len, patient.visits)) for patient in patients]
    batches = batches_by_length(range(len(patients)), lengths, batch_size)
    named: list[list[int]] = [[] for _ in patients]
    training = model.training
    model.eval()
    with torch.no_grad():
        for rows in progress(batches) if progress is not None else batches:
            going = list(rows)
            for _ in range(min(most, model.config.num_codes)):
                following = _next_codes(
                    model, encoder, tokenizer, [(patients[row], named[row]) for row in going], stop_at_eov
                )
                for row, code in zip(going, following, strict=True):
                    if code < model.config.num_codes:
                        named[row].append(code)
                going = [row for row, code in zip(going, following, strict=True) if code < model.config.num_codes]
                if not going:
                    break
    model.train(training)
    return named


def _next_codes(model, encoder, tokenizer, rows: list[tuple[Patient, list[int]]], stop_at_eov: bool) -> list[int]:
    """The likeliest next code behind those that were named, for each row; the number of codes stands for EOV."""
    import torch

    from mera_hf.modeling_mera import FORWARD_INPUTS

    timelines = [
        encoder.encode(Patient(patient.head, [*patient.visits, named], [*patient.tails, []]), len(patient.visits))
        for patient, named in rows
    ]
    pad, start = tokenizer.pad_token_id or 0, model.config.decoder_start_token_id
    batch = collate_timelines(timelines, pad) if start is None else collate_pairs(timelines, pad, start)
    output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name in FORWARD_INPUTS})
    last = torch.tensor([len(named) + 1 for _, named in rows]).cumsum(0) - 1  # the decision behind all that were named
    logits = torch.cat([output.code_logits, output.eov_logits[:, None]], 1)[
        last.to(model.device)
    ].float()  # (B, C + 1)
    for row, (_, named) in enumerate(rows):
        logits[row, named] = -torch.inf
    if not stop_at_eov:
        logits[:, -1] = -torch.inf
    return logits.argmax(-1).tolist()


def as_ranking(lists: Sequence[Sequence[int]], n_codes: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of codes as a ranking and its set sizes. Behind the end of a list stand places that no code takes: indices from
    `n_codes` on, which nobody has.

    Returns:
        order of shape (patients, width), int32, and set sizes of shape (patients,).
    """
    import numpy as np

    order = np.tile(np.arange(n_codes, n_codes + width, dtype=np.int32), (len(lists), 1))
    for row, codes in enumerate(lists):
        order[row, : len(codes)] = codes
    return order, np.array([len(codes) for codes in lists])


def decoded_lists(run: Run, samples: Sequence[Sample], stop_at_eov: bool) -> list[list[int]]:
    """The lists of a run's checkpoint on the test patients, at most 20 codes; kept beside its rankings."""
    import json

    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer

    import mera_hf  # noqa: F401  registers the model
    from mera_hf.evaluation.results import write_text

    path = run.folder / f"decoded-{'eov' if stop_at_eov else '20'}.json"
    if path.is_file():
        return json.loads(path.read_text())
    model = AutoModel.from_pretrained(run.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    title = f"decoding, {run.folder.name}"
    lists = decode_greedily(
        model, tokenizer, samples, stop_at_eov=stop_at_eov, progress=lambda each: tqdm(each, desc=title, unit="batch")
    )
    write_text(json.dumps(lists) + "\n", path)
    return lists
