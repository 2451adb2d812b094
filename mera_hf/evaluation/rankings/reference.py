"""Reference rankers: what a reader should compare MERA with before believing it.

Each is fitted on the training samples (`prediction_samples(train, codes, "every")`), makes its choices on the
validation samples, and scores codes from the codes of the history alone. All of them are this project's choice.
Simple does not mean weak: copying the history beats many published models in weighted F1.

| name | scores |
|---|---|
| `prevalence` | the share of training visits that hold the code, the same for every patient |
| `copy_history` | the last visit's codes, then those of earlier visits, then all others; by prevalence within each group |
| `ridge` | least squares from [any earlier visit, last visit] multi-hots to the target's |
| `logistic` | one logistic regression per code on the multi-hot of any earlier visit |
| `gru` | a recurrent network over visits whose output bias starts at the codes' log-odds |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample, multi_hot
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.rankings.ranked import Cut, Ranking


if TYPE_CHECKING:
    import numpy as np

SELECTION_K = 20  # recall@20 on validation chooses between settings; for few candidates k is a quarter of the codes


class ReferenceRanker(ABC):
    """A ranker that uses the codes of the history alone.

    Args:
        seed (`int`, defaults to 0): for the rankers trained by gradient; the others have no randomness.
    """

    name: str  # its row in the tables

    def __init__(self, seed: int = 0):
        self.seed = seed

    @abstractmethod
    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> ReferenceRanker:
        """Fit to `train` and make every choice on `validation`; returns the ranker itself."""

    @abstractmethod
    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """Scores (patients, codes), float32; higher scores rank first."""

    def probabilities(self, scores: np.ndarray) -> np.ndarray | None:
        """P(code in the next visit) by [`scores`], in their shape; `None` for a ranker whose scores say no such thing."""
        return None


class Prevalence(ReferenceRanker):
    """Scores every code by the share of training visits that hold it, first visits included."""

    name = "prevalence"

    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> Prevalence:
        self.prevalence = _prevalence(train, n_codes)
        return self

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        import numpy as np

        return np.tile(self.prevalence, (len(samples), 1))  # (patients, codes)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return scores


class CopyHistory(ReferenceRanker):
    """The last visit's codes first, then those of earlier visits, then all others; by prevalence within each group.

    A score is the prevalence plus 2, 1 or 0, so the threshold from [`fit_threshold`] may mean "the last visit",
    "the whole history", or a part of either by prevalence.
    """

    name = "copy_history"

    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> CopyHistory:
        self.prevalence = _prevalence(train, n_codes)
        return self

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        any_visit, last_visit = _history_hot(samples, len(self.prevalence))
        return (any_visit + last_visit).toarray() + self.prevalence  # (patients, codes)


class Ridge(ReferenceRanker):
    """Ridge regression, in closed form, with an unpenalised intercept; the penalty is chosen on validation."""

    name = "ridge"
    penalties = (30.0, 100.0, 300.0, 1000.0)

    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> Ridge:
        import numpy as np
        from scipy.linalg import cho_factor, cho_solve
        from scipy.sparse import hstack

        x = hstack(_history_hot(train, n_codes), format="csr").astype(np.float64)  # (samples, 2 codes)
        y = multi_hot([sample.target for sample in train], n_codes).astype(np.float64)  # (samples, codes)
        x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
        gram = (x.T @ x).toarray() - len(train) * np.outer(x_mean, x_mean)  # (2 codes, 2 codes), centred
        cross = (x.T @ y).toarray() - len(train) * np.outer(x_mean, y_mean)  # (2 codes, codes), centred
        best = -1.0
        for penalty in self.penalties:
            weight = cho_solve(cho_factor(gram + penalty * np.eye(len(gram))), cross).astype(np.float32)
            bias = (y_mean - x_mean @ weight).astype(np.float32)
            recall = _recall(_linear(validation, weight, bias), validation)
            if recall > best:
                best, self.penalty, self.weight, self.bias = recall, penalty, weight, bias
        return self

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        return _linear(samples, self.weight, self.bias)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return scores.clip(0, 1)  # least squares fits shares, but does not keep to their range


class LogitRanker(ReferenceRanker):
    """A ranker whose scores are logits."""

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        from scipy.special import expit

        return expit(scores)


class Logistic(LogitRanker):
    """One linear layer on the multi-hot of the history, trained by Adam; bias from the codes' log-odds, weights from
    zero.

    The weight decay and the epoch are chosen on validation.
    """

    name = "logistic"
    weight_decays = (0.01, 0.1, 1.0)
    learning_rate = 0.01
    batch_size = 256
    epochs = 12
    patience = 2

    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> Logistic:
        import torch

        bias = torch.from_numpy(_log_odds(train, n_codes))
        x = [sorted(set(chain.from_iterable(sample.history))) for sample in train]
        y = multi_hot([sample.target for sample in train], n_codes)
        best = -1.0
        for decay in self.weight_decays:
            generator = torch.Generator().manual_seed(self.seed)
            # A summed bag of embeddings equals the linear layer on a multi-hot, but skips the zeros.
            layer = torch.nn.EmbeddingBag.from_pretrained(torch.zeros(n_codes, n_codes), freeze=False, mode="sum")
            offset = torch.nn.Parameter(bias.clone())
            groups = [{"params": layer.parameters(), "weight_decay": decay}, {"params": [offset], "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
            best_of_decay, since = -1.0, 0
            for _ in _progress(self.epochs, f"logistic, weight decay {decay}"):
                for batch in _batches(len(train), self.batch_size, generator):
                    logits = layer(*_bags([x[i] for i in batch])) + offset  # (batch, codes)
                    loss = _cross_entropy(logits, torch.from_numpy(y[batch.numpy()].toarray()))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                weight, offset_now = layer.weight.detach().numpy(), offset.detach().numpy()
                recall = _recall(_history_hot(validation, n_codes)[0] @ weight + offset_now, validation)
                if recall > best:
                    best, self.weight_decay, self.weight, self.bias = recall, decay, weight.copy(), offset_now.copy()
                since += 1
                if recall > best_of_decay:
                    best_of_decay, since = recall, 0
                if since == self.patience:
                    break
        return self

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        return _history_hot(samples, len(self.bias))[0] @ self.weight + self.bias  # (patients, codes) logits


class Gru(LogitRanker):
    """A GRU over visits (summed code embeddings); output bias from the codes' log-odds, early stopping on validation.

    A patient's timeline is one sequence and every visit but the first is a target, as in MERA. The output bias matters
    more than the network: without it the same network loses several points.
    """

    name = "gru"
    dimension = 128
    dropout = 0.3
    learning_rate = 2e-3
    batch_size = 64
    epochs = 40
    patience = 3

    def fit(self, train: Sequence[Sample], n_codes: int, validation: Sequence[Sample]) -> Gru:
        import torch

        timelines = _timelines(train)
        with torch.random.fork_rng(devices=[]):  # dropout and initialisation draw from the global generator
            torch.manual_seed(self.seed)
            network = self.network = _gru_network(n_codes, self.dimension, self.dropout)
            network["output"].bias.data = torch.from_numpy(_log_odds(train, n_codes))
            optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
            best, since = -1.0, 0
            for _ in _progress(self.epochs, "gru"):
                network.train()
                for batch in _batches(len(timelines), self.batch_size, torch.default_generator):
                    visits = [timelines[i] for i in batch]
                    states, reached = self._states([timeline[:-1] for timeline in visits])
                    target = multi_hot([visit for timeline in visits for visit in timeline[1:]], n_codes)
                    logits = network["output"](network["dropout"](states[reached]))  # (visits, codes)
                    loss = _cross_entropy(logits, torch.from_numpy(target.toarray()))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                recall = _recall(self.scores(validation), validation)
                since += 1
                if recall > best:
                    best, since = recall, 0
                    kept = {name: value.clone() for name, value in network.state_dict().items()}
                if since == self.patience:
                    break
            network.load_state_dict(kept)
            network.eval()
        return self

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        import torch

        self.network.eval()
        blocks = []
        with torch.inference_mode():
            for start in range(0, len(samples), 1024):
                histories = [sample.history for sample in samples[start : start + 1024]]
                states, reached = self._states(histories)
                last = states[torch.arange(len(histories)), reached.sum(dim=1) - 1]  # (patients, dimension)
                blocks.append(self.network["output"](last))
        return torch.cat(blocks).numpy()  # (patients, codes) logits

    def _states(self, histories: list[list[list[int]]]) -> tuple:
        """The state after each visit (patients, visits, dimension), and which visits exist (patients, visits) bool."""
        import torch
        from torch.nn.utils import rnn

        visits = self.network["embedding"](*_bags([visit for history in histories for visit in history]))
        lengths = torch.tensor([len(history) for history in histories])
        # Packed, as most patients have two or three visits and a few have dozens: padding would be most of the
        # work.
        packed = rnn.pack_sequence(self.network["dropout"](visits).split(lengths.tolist()), enforce_sorted=False)
        states, _ = rnn.pad_packed_sequence(self.network["gru"](packed)[0], batch_first=True)
        return states, torch.arange(states.shape[1]) < lengths[:, None]


# In the order of the tables
RANKERS: tuple[type[ReferenceRanker], ...] = (Prevalence, CopyHistory, Ridge, Logistic, Gru)
REFERENCES = tuple(ranker.name for ranker in RANKERS)


def fit_threshold(scores: np.ndarray, samples: Sequence[Sample]) -> float:
    """The score at which to cut every patient's ranking for the best possible weighted F1 of the sets.

    The set of a patient is every code that scores at least the threshold. The search over thresholds is exact. Weighted
    F1 punishes false positives little for rare codes, and not at all for codes that no patient has. For a ranker that
    does not look at the patient, such as prevalence, the best set may be all codes. Read it with the set size.

    Args:
        scores (`np.ndarray` of shape (patients, codes), float32):
            For MERA: code logits minus the EOV logit; the result is then an offset for EOV.
        samples (`Sequence[Sample]`):
            The validation samples that were scored.
    """
    import numpy as np

    truth = multi_hot([sample.target for sample in samples], scores.shape[1])
    support = truth.sum(axis=0)
    seen = support.nonzero()[0]  # a code without support has no weight
    support, scores = support[seen], scores[:, seen]
    order = np.argsort(-scores, axis=0, kind="stable")  # (patients, codes): one ranking of the patients per code
    scores = np.take_along_axis(scores, order, axis=0)
    hits = np.take_along_axis(truth[:, seen].toarray(), order, axis=0).cumsum(axis=0)
    predicted = np.arange(1, len(samples) + 1)[:, None]
    f1 = 2 * hits / (predicted + support) * (support / support.sum())  # (patients, codes): weighted, if cut here
    gain = np.diff(f1, axis=0, prepend=0).ravel()
    scores = scores.ravel()
    order = np.argsort(-scores, kind="stable")
    total, scores = gain[order].cumsum(), scores[order]
    reachable = np.append(scores[1:] != scores[:-1], True)  # a cut must lie between different scores
    reachable &= scores > -np.inf  # -inf marks codes that are no candidates
    return float(scores[np.where(reachable, total, -1).argmax()])


def rank_function(ranker: ReferenceRanker, validation: Sequence[Sample]) -> Callable[[Sequence[Sample]], Ranking]:
    """A fitted ranker as a function from samples to their ranking, cut at a threshold fitted on validation, with its
    probabilities, or its scores where it has none.

    MERA has the same form, so that metrics and controls treat all rankers alike.
    """
    import numpy as np

    threshold = fit_threshold(ranker.scores(validation), validation)

    def rank(samples: Sequence[Sample]) -> Ranking:
        scores = ranker.scores(samples)
        order, cut = order_from_scores(scores), Cut((scores >= threshold).sum(axis=1), "threshold")
        probabilities = ranker.probabilities(scores)
        if probabilities is None:
            return Ranking(order, cut, scores=np.take_along_axis(scores, order, axis=1))
        return Ranking(order, cut, np.take_along_axis(probabilities, order, axis=1))

    return rank


def fit_references(
    train: Sequence[Sample],
    n_codes: int,
    validation: Sequence[Sample],
    seed: int = 0,
    names: Sequence[str] = REFERENCES,
) -> dict[str, Callable[[Sequence[Sample]], Ranking]]:
    """Fit every reference ranker: a dict from its name to its [`rank_function`].

    Args:
        train (`Sequence[Sample]`):
            Every visit but the first of the training patients.
        n_codes (`int`):
            Size of the candidate space.
        validation (`Sequence[Sample]`):
            Chooses penalties, epochs and thresholds.
        seed (`int`, defaults to 0):
            For the rankers that are trained by gradient.
        names (`Sequence[str]`, defaults to all):
            The rankers to fit.

    Raises:
        [`~mera_hf.errors.InputError`]: if `train` or `validation` is empty, or a name is not a reference ranker's.
    """
    unknown = [name for name in names if name not in REFERENCES]
    if unknown:
        raise InputError(f"`names` holds {unknown[0]!r}; the reference rankers are {', '.join(REFERENCES)}.")
    for name, samples in (("train", train), ("validation", validation)):
        if not samples:
            raise InputError(f"`{name}` holds no sample: the reference rankers need patients with two visits or more.")
    chosen = [ranker for ranker in RANKERS if ranker.name in names]
    return {ranker.name: rank_function(ranker(seed).fit(train, n_codes, validation), validation) for ranker in chosen}


def _timelines(samples: Sequence[Sample]) -> list[list[list[int]]]:
    """The whole timeline of each patient, targets included, from the patient's longest sample."""
    longest: dict[int, Sample] = {}
    for sample in samples:
        if sample.patient not in longest or len(sample.history) > len(longest[sample.patient].history):
            longest[sample.patient] = sample
    return [[*sample.history, sample.target] for sample in longest.values()]


def _prevalence(train: Sequence[Sample], n_codes: int) -> np.ndarray:
    """Share of the visits of the training patients that hold each code: (codes,) float32."""
    return multi_hot(list(chain.from_iterable(_timelines(train))), n_codes).mean(axis=0)


def _log_odds(train: Sequence[Sample], n_codes: int) -> np.ndarray:
    """Log-odds of each code in a training target, with half a visit added to both sides: (codes,) float32."""
    import numpy as np

    count = multi_hot([sample.target for sample in train], n_codes).sum(axis=0) + 0.5
    return np.log(count / (len(train) + 1 - count)).astype(np.float32)


def _history_hot(samples: Sequence[Sample], n_codes: int) -> tuple:
    """Multi-hots (patients, codes) of the codes of any earlier visit, and of the last one."""
    any_visit = multi_hot([list(chain.from_iterable(sample.history)) for sample in samples], n_codes)
    return any_visit, multi_hot([sample.history[-1] for sample in samples], n_codes)


def _linear(samples: Sequence[Sample], weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    from scipy.sparse import hstack

    return hstack(_history_hot(samples, len(bias)), format="csr") @ weight + bias  # (patients, codes)


def _recall(scores: np.ndarray, samples: Sequence[Sample]) -> float:
    k = min(SELECTION_K, -(-scores.shape[1] // 4))
    width = max(k, max(len(sample.target) for sample in samples))
    return evaluate_ranking(order_from_scores(scores, width), None, samples, (k,))[f"recall@{k}"]


def _bags(code_lists: Sequence[Sequence[int]]) -> tuple:
    """Code lists as the two arguments of `torch.nn.EmbeddingBag`: all codes in a row, and where each list begins."""
    import torch

    starts = torch.tensor([0, *map(len, code_lists)]).cumsum(0)[:-1]
    return torch.tensor(list(chain.from_iterable(code_lists)), dtype=torch.long), starts


def _batches(count: int, batch_size: int, generator) -> tuple:
    """Rows in random order, in batches that shrink if rows are few: at least 32 steps per epoch."""
    import torch

    return torch.randperm(count, generator=generator).split(max(1, min(batch_size, count // 32)))


def _cross_entropy(logits, target):
    """Binary cross-entropy, summed over codes and averaged over visits."""
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)


def _gru_network(n_codes: int, dimension: int, dropout: float):
    from torch import nn

    return nn.ModuleDict(
        {
            "embedding": nn.EmbeddingBag(n_codes, dimension, mode="sum"),
            "dropout": nn.Dropout(dropout),
            "gru": nn.GRU(dimension, dimension, batch_first=True),
            "output": nn.Linear(dimension, n_codes),
        }
    )


def _progress(epochs: int, description: str):
    from tqdm import tqdm

    return tqdm(range(epochs), desc=description, unit="epoch", leave=False)
