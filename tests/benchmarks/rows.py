"""What is compared, and what is asked of it (issue: the engine; figures of the design that it was built from)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import adapters, layouts, loss, ranking, training


@dataclass
class Row:
    """A comparison.

    Attributes:
        goal: what the ratio has to reach.
        better: `"higher"` or `"lower"`.
        run: returns the ratio and the setting in words.
    """

    goal: float
    better: str
    run: Callable[[], tuple[float, str]]


ROWS = {
    "timeline": Row(25.0, "higher", layouts.timeline),
    "tree": Row(5.0, "higher", layouts.tree),
    "loss-1024x14567": Row(1.4, "lower", partial(loss.against_products, 1_024)),
    "loss-4096x4900": Row(1.4, "lower", partial(loss.against_products, 4_096, 4_900)),
    "loss-512x74719": Row(1.35, "lower", partial(loss.against_products, 512, vocabulary="ICD10CM")),
    "loss-bias-history": Row(1.4, "lower", partial(loss.against_products, 1_024, extras=True)),
    "loss-wide": Row(1.4, "lower", partial(loss.against_products, 1_024, 4_900, width=2_048)),
    "memory-2048x14567": Row(0.2, "lower", partial(loss.memory, 2_048)),
    "memory-1024x74719": Row(0.2, "lower", partial(loss.memory, 1_024, vocabulary="ICD10CM")),
    "rank-generate": Row(3.0, "higher", ranking.generate),
    "rank-descriptions": Row(200.0, "higher", ranking.descriptions),
    "rank-sorted": Row(1.4, "higher", ranking.sorted_batches),
    "lora": Row(2.0, "higher", adapters.lora_step),
    "training": Row(0.9, "higher", training.trainer),
}
