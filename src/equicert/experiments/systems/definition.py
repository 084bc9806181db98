"""All systems under one protocol: trained, certified by every method that applies, attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from equicert.attacks import PGD
from equicert.errors import ConfigError
from equicert.experiments.outcomes import Outcome, Spread, spread
from equicert.experiments.study import (
    Study,
    Task,
    Variant,
    attacks,
    certificates,
    training_settings,
)
from equicert.experiments.systems.table import METHODS, SYSTEMS, System

BY_PGD: Final = "attack-pgd"
TABLE: Final = (0.01, 0.03, 0.05, 0.1)  # radii of the tables
ATTACKED: Final = (0.03, 0.1)  # radii at which PGD is run
RADII: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
QUICK_RADII: Final = (0.0, *TABLE)


@dataclass(frozen=True)
class Systems(Study):
    """All systems on one set of axes, each under its best certificate.

    Example:
        >>> study = Systems(seeds=1)
        >>> study.run(load_data("mnist"), "runs/systems")

    Args:
        systems: what is compared.
        seeds: number of seeds, 0, 1, ...
        radii: increasing, in the units of the data, from 0 on; those of the tables among them.
        limit: the first so many test samples; None for all.
        attacked: test samples that are attacked.
        pgd: the attack.

    Raises:
        ConfigError: a value out of its range.
    """

    systems: tuple[System, ...] = SYSTEMS
    seeds: int = 3
    radii: tuple[float, ...] = RADII
    limit: int | None = None
    attacked: int = 1000
    pgd: PGD = field(default_factory=PGD)
    kind = "systems"

    def __post_init__(self) -> None:
        self._check(self.radii, among=TABLE)
        names = [variant.folder for variant in self.variants()]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"systems must be one or more of different names, got {names}")

    def variants(self) -> list[Variant]:
        return [Variant(s.name, s.config, self._tasks(s)) for s in self.systems]

    def _tasks(self, system: System) -> tuple[Task, ...]:
        certified = (
            task
            for name in system.methods
            for task in certificates(name, METHODS[name], self.radii, self.limit)
        )
        return (*certified, *attacks(BY_PGD, self.pgd, ATTACKED, self.first()))

    def settings(self) -> dict[str, Any]:
        own = {"seeds": self.seeds, "radii": list(self.radii), "limit": self.limit}
        own |= {"attacked": self.attacked, "pgd": asdict(self.pgd)}
        for system in self.systems:
            own |= training_settings(system.config, f"{system.name}: ")
            own[f"{system.name}: methods"] = list(system.methods)
        return own


def best(found: Sequence[Outcome], system: System, eps: float) -> tuple[str, Spread]:
    """The certificate with the greatest mean certified share at a radius, and that share.

    Of equals the first of METHODS; one that does not apply only where none does.
    """
    own = [outcome for outcome in found if outcome.variant == system.name]
    apply = [name for name in system.methods if any(name not in o.reasons for o in own)]
    spreads = {
        name: spread(own, system.name, lambda o, name=name: o.at(name, eps).share)
        for name in apply or system.methods
    }
    return max(spreads.items(), key=lambda item: item[1].mean)


def best_names(found: Sequence[Outcome], system: System, radii: Sequence[float]) -> list[str]:
    """The certificates that are best at some radius > 0 where anything is certified at all."""
    chosen = [best(found, system, eps) for eps in radii if eps > 0]
    names = [name for name, share in chosen if share.mean > 0]
    return [name for name in METHODS if name in names]
