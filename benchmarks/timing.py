"""Times of contestants that take turns within one run, so that all see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, in seconds.

    Attributes:
        cpu: time of the process on the processor.
        wall: time that passed.
        cpu_least: the shortest round.
        rounds: how many there were.
    """

    cpu: float
    wall: float
    cpu_least: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, budget: float = float("inf")
) -> dict[str, Timing]:
    """Call the contestants in turn, A B C A B C ..., and return the medians of each.

    Args:
        contestants: by name; each is called once before, unmeasured.
        rounds: how often each is called.
        budget: seconds after which no further round begins; one is always made.
    """
    for call in contestants.values():
        call()
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.perf_counter()
    for _ in range(max(rounds, 1)):
        for name, call in contestants.items():
            own, passed = time.process_time(), time.perf_counter()
            call()
            wall[name].append(time.perf_counter() - passed)
            cpu[name].append(time.process_time() - own)
        if time.perf_counter() - began > budget:
            break
    return {
        name: Timing(
            statistics.median(cpu[name]), statistics.median(times), min(cpu[name]), len(times)
        )
        for name, times in wall.items()
    }
