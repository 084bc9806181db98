"""How far an experiment is."""

from __future__ import annotations

from equicert import training


class Progress(training.Progress):
    """Hears how far an experiment is; the methods do nothing until a subclass says otherwise.

    Between two calls of `stage` come those of the training run or the evaluation that the first
    one announced.
    """

    def stage(self, number: int, count: int, what: str) -> None:
        """Called before each stage, counted from 1."""

    def samples(self, done: int, total: int) -> None:
        """Called while a stage certifies or attacks."""
