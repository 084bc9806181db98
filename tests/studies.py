"""What tests of experiments share: a small data set, kills at any moment, what time leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equicert.data import DataSet
from equicert.experiments.progress import Progress
from equicert.runs import read_lines


def blobs() -> DataSet:
    """Three classes on the unit square, far enough apart to be certified now and then."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.15, 0.2], [0.85, 0.3], [0.4, 0.9]])
    y = np.arange(60) % 3
    x = np.clip(centres[y] + rng.normal(0, 0.08, (60, 2)), 0, 1)
    return DataSet("blobs", x[:40], y[:40], x[40:], y[40:], domain=(0.0, 1.0))


def save_blobs(path: str) -> None:
    """The same as an npz file that the command line reads."""
    data = blobs()
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(path, **{k: getattr(data, k) for k in names}, domain=np.array([0.0, 1.0]))


def lines_of(out: Path, folder: str) -> list[dict[str, Any]]:
    return read_lines(out / folder / "verdicts.jsonl")


def timeless(item: Any) -> Any:
    """The same without what differs from run to run: times, and what is decided by them."""
    if isinstance(item, dict):
        drop = ("created", "command", "statements")
        kept = {k: v for k, v in item.items() if not k.endswith("seconds") and k not in drop}
        return {k: timeless(v) for k, v in kept.items()}
    return [timeless(value) for value in item] if isinstance(item, list | tuple) else item


def tampered(path: Path) -> list[dict[str, Any]]:
    """The lines of a file as if every attack had broken every sample."""
    attacked = path.parts[-3].startswith("attack")
    return [v | {"status": "broken"} if attacked else v for v in read_lines(path)]


class KilledError(RuntimeError):
    """Raised where a kill strikes."""


class Executioner(Progress):
    """Raises at the given call of one of the methods."""

    def __init__(self, method: str = "", call: int = -1) -> None:
        self.method, self.left = method, call
        self.heard: list[str] = []

    def _hear(self, method: str) -> None:
        self.left -= method == self.method
        if self.left == 0:
            self.left = -1
            raise KilledError

    def stage(self, number: int, count: int, what: str) -> None:
        self.heard.append(f"{number}/{count} {what}")
        self._hear("stage")

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002 - of the base
        self._hear("step")

    def epoch(self, metrics: dict[str, Any]) -> None:  # noqa: ARG002 - of the base
        self.heard.append("epoch")
        self._hear("epoch")

    def samples(self, done: int, total: int) -> None:
        self.heard.append(f"{done}/{total}")
        self._hear("samples")
