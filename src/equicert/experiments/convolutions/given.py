"""A model that is there already, with what the folder of its training run says of it, if any."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from equicert import zoo
from equicert.checkpoints import recorded_run
from equicert.errors import ConfigError, OutputError
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import METRICS


@dataclass(frozen=True)
class Given:
    """A model that is not trained here.

    Attributes:
        network: as its file holds it.
        trained: how, as the folder of its run says; None where there is none.
        seconds: all its epochs, likewise.
    """

    network: StoredNetwork
    trained: TrainConfig | None = None
    seconds: float | None = None


def given_model(path: str | Path) -> Given:
    """The model of a file or `zoo:NAME`, and of the run in whose folder it lies.

    The record of a run that made other weights, or that cannot be read, says nothing of this model.

    Raises:
        ModelError: whatever is wrong with the file.
    """
    network, folder = load_model(path), zoo.resolve(path).parent
    with suppress(OutputError, ConfigError):
        run = recorded_run(folder)
        if run.model_digest == network.digest:
            return Given(network, run.config, training_seconds(folder))
    return Given(network)


def training_seconds(folder: Path) -> float:
    """The time of all epochs of a run, with their accuracies on test samples.

    Raises:
        OutputError: the file is missing or damaged.
    """
    return sum(line["seconds"] for line in read_lines(folder / METRICS))
