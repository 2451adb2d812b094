"""Visits datasets as timelines for training: a torch dataset, length-based samplers, and the collator."""

import itertools
import random
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from mera_hf.data.patient_arrays import PatientArrays
from mera_hf.errors import InputError
from mera_hf.timeline_mera import (
    Patient,
    Timeline,
    TimelineEncoder,
    batches_by_length,
    collate_pairs,
    collate_timelines,
)


class TimelineDataset(Dataset):
    """Patients of a visits dataset as [`Timeline`]s, with the codes of each visit in a fresh order every epoch.

    An item is asked for by `row`, in tree order, or by `(epoch, row)`, in an order drawn from `(seed, epoch, row)`: so
    the draw does not depend on the process, the worker or whether training was resumed.

    Args:
        rows (`datasets.Dataset` or `list[dict]`): a visits dataset; what a model reads from it is held in memory.
        encoder (`TimelineEncoder`): writes a patient.
        first_target (`int`, *optional*, defaults to 1): index of the first visit that is predicted; patients with fewer
            visits are left out and counted in `left_out`.
        seed (`int`, *optional*, defaults to 0): seed of the code orders.
        prefix_share (`float`, *optional*, defaults to 1.0): share of the decisions after the first code of a visit
            that an epoch keeps; without an epoch all are kept.
        orders (`int`, *optional*): write histories once, followed by every visit in this many orders, see
            [`TimelineEncoder.encode_tree`] (one order without an epoch); `None` writes one sequence.
        perturb_orders (`bool`, *optional*, defaults to `True`): whether each epoch has its own orders, or the tree's.

    Attributes:
        patients (`PatientArrays`): the patients with a visit to predict.
        lengths: tokens of each timeline in an epoch.
        reach: the most tokens that a token attends to in any of them.
        unread_visits: number of visits that the encoder's `max_length` cut from them.

    Raises:
        [`InputError`]: where no patient has a visit to predict, a code is not one of the model's, or not even a profile fits
            into `max_length`.
    """

    def __init__(
        self,
        rows,
        encoder: TimelineEncoder,
        first_target: int = 1,
        seed: int = 0,
        prefix_share: float = 1.0,
        orders: int | None = None,
        perturb_orders: bool = True,
    ):
        self.encoder, self.first_target, self.seed = encoder, first_target, seed
        self.prefix_share, self.orders, self.perturb_orders = prefix_share, orders, perturb_orders
        self.patients, self.lengths, self.reach, self.unread_visits = PatientArrays(), [], 0, 0
        try:
            for row in tqdm(rows, desc="reading patients", unit="patient", delay=5, disable=None):
                if len(row["visits"]) <= first_target:
                    continue
                patient = encoder.read(row)
                timeline = self._written(patient, random.Random(0))
                self.patients.append(patient)
                self.lengths.append(len(timeline.input_ids))
                self.reach = max(self.reach, timeline.reach)
                self.unread_visits += timeline.unread_visits
        except ValueError as error:
            raise InputError(f"the dataset does not fit the model: {error}") from error
        if not len(self):
            raise InputError(
                f"none of the {len(rows)} patients has more than {first_target} visits, so there is no visit to predict; "
                "use a cohort with two visits or more."
            )
        self.left_out = len(rows) - len(self)

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, item: int | tuple[int, int]) -> Timeline:
        epoch, row = item if isinstance(item, tuple) else (None, item)
        draw = None if epoch is None else random.Random(f"{self.seed}:{epoch}:{row}")
        timeline = self._written(self.patients[row], draw if self.perturb_orders else None)
        return self._thinned(timeline, draw) if draw is not None and self.prefix_share < 1 else timeline

    def _written(self, patient: Patient, shuffle: random.Random | None) -> Timeline:
        if self.orders is None:
            return self.encoder.encode(patient, self.first_target, shuffle)
        return self.encoder.encode_tree(patient, self.first_target, 1 if shuffle is None else self.orders, shuffle)

    def _thinned(self, timeline: Timeline, draw: random.Random) -> Timeline:
        kept = [given == 0 or draw.random() < self.prefix_share for given in timeline.decision_given]
        for name in ("decisions", "decision_visits", "decision_given"):
            setattr(timeline, name, list(itertools.compress(getattr(timeline, name), kept)))
        return timeline


class LengthSampler(Sampler):
    """Random batches of timelines of similar length, which saves padding. Yields `(epoch, row)` for [`TimelineDataset`].

    Each epoch is a fresh permutation, drawn from `(seed, epoch)`; every `50 * batch_size` rows of it are sorted by length
    and cut into batches, and the batches are taken in random order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        permutation = torch.randperm(len(self.lengths), generator=generator).tolist()
        pool = 50 * self.batch_size
        batches = []
        for start in range(0, len(permutation), pool):
            batches += batches_by_length(permutation[start : start + pool], self.lengths, self.batch_size)
        # A batch that is not full has to stay last, or it would shift the borders of those after it
        full = len(batches) - (len(batches[-1]) < self.batch_size)
        for batch in torch.randperm(full, generator=generator).tolist() + list(range(full, len(batches))):
            yield from ((self.epoch, row) for row in batches[batch])


class BudgetSampler(Sampler):
    """Random batches of timelines of similar length within a budget of tokens. Yields lists of `(epoch, row)` for
    [`TimelineDataset`].

    Rows are sorted by length, ties in an order drawn from `(seed, epoch)`, and cut into batches, which
    are taken in random order. The sorted lengths are the same in every epoch, and so is the number of batches.

    Args:
        lengths (`list[int]`): tokens of each row.
        batch_size (`int`): the most rows in a batch.
        batch_tokens (`int`): the most tokens in a batch, padding included; a longer row is its own batch.
        seed (`int`, *optional*, defaults to 0): seed of the order.
        processes (`int`, *optional*, defaults to 1): batches are halved, the fullest first, until each process has
            equally many; with too few rows for that, accelerate hands out some batches twice.
    """

    def __init__(self, lengths: list[int], batch_size: int, batch_tokens: int, seed: int = 0, processes: int = 1):
        # Not `self.batch_size`: accelerate would drop every batch of another size
        self.lengths, self.limits = lengths, (batch_size, batch_tokens)
        self.seed, self.processes, self.epoch = seed, processes, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _batches(self, rows: Iterable[int]) -> list[list[int]]:
        batches = batches_by_length(rows, self.lengths, *self.limits)
        while len(batches) % self.processes and len(batches) < len(self.lengths):
            several = [at for at, rows in enumerate(batches) if len(rows) > 1]
            at = max(several, key=lambda at: len(batches[at]) * self.lengths[batches[at][-1]])
            middle = len(batches[at]) // 2
            batches[at : at + 1] = [batches[at][:middle], batches[at][middle:]]
        return batches

    def __len__(self) -> int:
        return len(self._batches(range(len(self.lengths))))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        batches = self._batches(torch.randperm(len(self.lengths), generator=generator).tolist())
        for batch in torch.randperm(len(batches), generator=generator).tolist():
            yield [(self.epoch, row) for row in batches[batch]]


class TimelineCollator:
    """Puts [`Timeline`]s into the batch of `collate_timelines`, or of `collate_pairs` for an encoder-decoder.

    Args:
        pad_token_id (`int`): the padding token.
        padding_side (`str`, *optional*, defaults to `"right"`):
            `"right"` or `"left"`; does not change results. Always `"right"` for an encoder-decoder.
        packed (`bool`, *optional*, defaults to `False`): one unpadded row for all timelines; does not change results.
        decoder_start_token_id (`int`, *optional*): of an encoder-decoder, see `MeraConfig.decoder_start_token_id`.
    """

    def __init__(
        self,
        pad_token_id: int,
        padding_side: str = "right",
        packed: bool = False,
        decoder_start_token_id: int | None = None,
    ):
        self.pad_token_id, self.padding_side, self.packed = pad_token_id, padding_side, packed
        self.decoder_start_token_id = decoder_start_token_id

    def __call__(self, timelines: list[Timeline]) -> dict[str, torch.Tensor]:
        if self.decoder_start_token_id is not None:
            return collate_pairs(timelines, self.pad_token_id, self.decoder_start_token_id)
        return collate_timelines(timelines, self.pad_token_id, self.padding_side, self.packed)
