"""Dense and convolutional networks under one certificate, (14), over a grid of radii."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from equicert.attacks import PGD
from equicert.bounds import Interval
from equicert.errors import ConfigError
from equicert.experiments.convolutions.given import Given
from equicert.experiments.study import (
    Study,
    Task,
    Variant,
    attacks,
    certificates,
    lasting,
    training_settings,
)
from equicert.presets import preset
from equicert.schedules import TrainConfig

CERTIFY: Final = "certify"  # by (14), boxes clipped
ATTACK: Final = "attack"
MAIN: Final = (0.1, 0.3)  # radii of the tables, at which values are published and PGD is run
RADII: Final = (0.0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.28, 0.3, 0.32, 0.35, 0.4)
QUICK_RADII: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Entry:
    """A model that is trained, or given.

    Attributes:
        name: short, in tables; a model that is given takes the place of the one of its name.
        label: in legends.
        config: of its training; the seed is not used. Of a given one it settles the threads only.
        given: the model, if it is there already.
    """

    name: str
    label: str
    config: TrainConfig
    given: Given | None = None

    def training(self, seed: int) -> TrainConfig | None:
        """The settings with which it was trained; None where they are not known."""
        return replace(self.config, seed=seed) if self.given is None else self.given.trained


ENTRIES: Final = (
    Entry("dense", "dense, n = 100", preset("best")),
    Entry("convolutional", "convolutions and implicit block", preset("convolutional")),
    Entry(
        "convolutional-0.3",
        "convolutions and implicit block, for ε = 0.3",
        preset("convolutional-0.3"),
    ),
)


def quick(entry: Entry, epochs: int) -> Entry:
    """The same for few epochs, and for images as small as digits of 8 x 8 pixels.

    Boxes grow for longer: few steps have to follow them.
    """
    grown = 0.6 * epochs
    config = lasting(entry.config, epochs)
    config = replace(config, batch_size=50, ramp_start=0.0, ramp_end=grown, decay_start=grown)
    if config.front is not None:
        config = replace(config, front="8x3/2", hidden=32)
    return replace(entry, config=config)


def with_given(entries: tuple[Entry, ...], models: Mapping[str, Given]) -> tuple[Entry, ...]:
    """With these models in place of the entries of their names, the others after all entries."""
    found = [replace(entry, given=models.get(entry.name)) for entry in entries]
    known = {entry.name for entry in entries}
    more = [Entry(n, n, TrainConfig(), one) for n, one in models.items() if n not in known]
    return (*found, *more)


@dataclass(frozen=True)
class Convolutions(Study):
    """Dense and convolutional networks, each trained or given.

    Each is certified by the interval method (14) at every radius, on all test samples, and the
    first `attacked` are attacked by PGD at the radii of `MAIN`.

    Example:
        >>> entries = with_given(ENTRIES, {"dense": given_model("runs/best/model.safetensors")})
        >>> study = Convolutions(entries)
        >>> study.run(load_data("mnist"), "runs/convolutions")

    Args:
        entries: the models.
        seeds: number of seeds, 0, 1, ..., of those that are trained.
        radii: increasing, in the units of the data, from 0 on; those of `MAIN` among them.
        limit: the first so many test samples; None for all.
        attacked: test samples that are attacked.
        pgd: the attack.

    Raises:
        ConfigError: a value out of its range.
    """

    entries: tuple[Entry, ...] = ENTRIES
    seeds: int = 1
    radii: tuple[float, ...] = RADII
    limit: int | None = None
    attacked: int = 1000
    pgd: PGD = field(default_factory=PGD)
    kind = "convolutions"

    def __post_init__(self) -> None:
        self._check(self.radii, among=MAIN)
        names = [variant.folder for variant in self.variants()]
        if not names or len(set(names)) < len(names) or not all(names):
            raise ConfigError(f"models must be one or more of different names, got {names}")

    def variants(self) -> list[Variant]:
        tasks = self._tasks()
        return [
            Variant(e.name, e.config, tasks, None if e.given is None else e.given.network)
            for e in self.entries
        ]

    def _tasks(self) -> tuple[Task, ...]:
        return (
            *certificates(CERTIFY, Interval(), self.radii, self.limit),
            *attacks(ATTACK, self.pgd, MAIN, self.first()),
        )

    def settings(self) -> dict[str, Any]:
        own: dict[str, Any] = {"seeds": self.seeds, "radii": list(self.radii), "limit": self.limit}
        own |= {"attacked": self.attacked, "pgd": asdict(self.pgd)}
        for variant in self.variants():
            if variant.given is None:
                own |= training_settings(variant.config, f"{variant.name}: ")
            else:
                own[f"{variant.name}: model"] = variant.given.digest
        return own
