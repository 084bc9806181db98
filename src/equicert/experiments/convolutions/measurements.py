"""What the networks are, beside what `outcomes` measures: their sizes and their training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from equicert.comparison.measurement import stored_entries
from equicert.experiments.convolutions.definition import Convolutions, Entry
from equicert.experiments.convolutions.given import training_seconds
from equicert.experiments.study import Stage
from equicert.models import load_model
from equicert.schedules import TrainConfig
from equicert.training import MODEL


@dataclass(frozen=True)
class About:
    """One model.

    Attributes:
        variant: the name of its entry.
        seed: of its training here; of no meaning for a given model.
        given: whether it is one.
        units: n, hidden ones, explicit layers and implicit block together.
        parameters: numbers other than 0 in W, U, b, C and c as stored.
        training: its settings, where they are known.
        seconds: of all epochs, where they are known.
    """

    variant: str
    seed: int
    given: bool
    units: int
    parameters: int
    training: TrainConfig | None
    seconds: float | None


def describe(study: Convolutions, out: Path) -> list[About]:
    """Every model, in the order of its stages, of a study that has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    entries = {entry.name: entry for entry in study.entries}
    return [_about(entries[model.variant.name], model, out) for model in study.models()]


def _about(entry: Entry, model: Stage, out: Path) -> About:
    folder, given = out / model.folder, entry.given
    network = load_model(folder / MODEL) if given is None else given.network
    return About(
        entry.name,
        model.seed,
        given is not None,
        network.states,
        sum(int(tensor.count_nonzero()) for tensor in stored_entries(network)),
        entry.training(model.seed),
        training_seconds(folder) if given is None else given.seconds,
    )


def of(models: Sequence[About], entry: Entry) -> About:
    """The first model of an entry."""
    return next(model for model in models if model.variant == entry.name)


def mean_seconds(models: Sequence[About], entry: Entry) -> float | None:
    """The time to train, mean over seeds; None where it is not known."""
    times = [m.seconds for m in models if m.variant == entry.name and m.seconds is not None]
    return fmean(times) if times else None
