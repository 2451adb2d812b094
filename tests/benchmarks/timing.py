"""Who is faster: the calls take turns in one process, and the shortest time of each counts."""

import math
import time
from collections.abc import Callable


def best_of(
    calls: dict[str, Callable[[], object]], repeat: int, synchronise: Callable[[], object] | None = None
) -> dict:
    """Shortest time of each call in seconds.

    Other programs only ever make a call slower, and the ratio of two shortest times depends least on them.

    Args:
        calls: what is timed, by name.
        repeat: number of rounds that count; one more before them warms up.
        synchronise: waits until the device has done what was asked of it; CPUs need nothing of the kind.
    """
    synchronise = synchronise or (lambda: None)
    best = dict.fromkeys(calls, math.inf)
    for number in range(repeat + 1):
        for name, call in calls.items():
            synchronise()
            started = time.perf_counter()
            call()
            synchronise()
            if number:
                best[name] = min(best[name], time.perf_counter() - started)
    return best
