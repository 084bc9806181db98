"""Every method that escalates, on one network over a grid of radii, beside what attacks leave."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from equicert.attacks import PGD
from equicert.bounds import Auto, Complete, Dual, Interval, Lipschitz, Method, Tightening
from equicert.errors import ConfigError
from equicert.experiments.published import FIGURE2_EPS
from equicert.experiments.study import (
    Study,
    Task,
    Variant,
    attacks,
    certificates,
    training_settings,
)
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork

AUTO: Final = "auto"
ATTACK: Final = "attack"
# In the order in which `Auto` tries them.
METHODS: Final = ("lipschitz", "interval", "dual", "tightening", "complete")


def grid(eps_max: float = 0.2, step: int = 1) -> tuple[float, ...]:
    """Radii from 0 up to `eps_max`, every `step` fortieths, each the float64 nearest k/40.

    Raises:
        ConfigError: eps_max is not in [0.1, 1]: each method alone is run at 0.1.
    """
    if not FIGURE2_EPS <= eps_max <= 1:
        raise ConfigError(f"eps_max must be in [{FIGURE2_EPS:g}, 1], got {eps_max:g}")
    return tuple(k / 40 for k in range(0, 41, step) if k / 40 <= eps_max)


@dataclass(frozen=True)
class Verification(Study):
    """The methods of `Auto` on one network, which is trained for each seed, or given.

    At every radius `Auto` is run once, and PGD. A verdict of `Auto` names the method that decided
    it, and what one method certifies the later ones are taken to certify, too. At `eps` each method
    is run alone as well: for its cost, and to test that assumption.

    Example:
        >>> study = Verification(given=load_model("runs/mnist/model.safetensors"))
        >>> study.run(load_data("mnist"), "runs/verification")

    Args:
        config: of the model; its seed is not used. Of a given one it settles the threads only.
        given: the model, if it is there already.
        seeds: number of seeds, 0, 1, ...; 1 for a given model.
        radii: increasing, in the units of the data, from 0 on.
        eps: the one of the radii at which each method is run alone.
        limit: the first so many test samples, certified and attacked; None for all.
        timeout: seconds a sample, of the methods that search.
        pgd: the attack.

    Raises:
        ConfigError: a value out of its range.
    """

    config: TrainConfig = field(default_factory=TrainConfig)
    given: StoredNetwork | None = None
    seeds: int = 1
    radii: tuple[float, ...] = grid()
    eps: float = FIGURE2_EPS
    limit: int | None = 1000
    timeout: float = 10.0
    pgd: PGD = field(default_factory=PGD)
    attacked: int = field(default=sys.maxsize, init=False)  # all that are certified

    kind = "verification"

    def __post_init__(self) -> None:
        self._check(self.radii)
        if self.eps not in self.radii[1:]:
            raise ConfigError(f"eps must be one of the radii {self.radii[1:]}, got {self.eps:g}")
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be a number of seconds > 0, got {self.timeout:g}")
        if self.given is not None and self.seeds != 1:
            raise ConfigError(f"a given model has no seeds; got seeds = {self.seeds}")

    def methods(self) -> Mapping[str, Method]:
        """By name, in order of their cost."""
        searching = (Tightening(self.timeout), Complete(self.timeout))
        return {m.name: m for m in (Lipschitz(), Interval(), Dual(), *searching)}

    def variants(self) -> list[Variant]:
        name = "trained" if self.given is None else "given"
        return [Variant(name, self.config, self._tasks(), self.given)]

    def _tasks(self) -> tuple[Task, ...]:
        """Those at `eps` first."""
        auto, others = Auto(self.timeout), [eps for eps in self.radii if eps != self.eps]
        tasks = certificates(AUTO, auto, [self.eps], self.limit)
        for name, method in self.methods().items():
            tasks += certificates(name, method, [self.eps], self.limit)
        tasks += attacks(ATTACK, self.pgd, [self.eps], self.limit)
        tasks += certificates(AUTO, auto, others, self.limit)
        return (*tasks, *attacks(ATTACK, self.pgd, others, self.limit))

    def settings(self) -> dict[str, Any]:
        own: dict[str, Any] = {"seeds": self.seeds, "radii": list(self.radii), "eps": self.eps}
        own |= {"limit": self.limit, "timeout": self.timeout, "pgd": asdict(self.pgd)}
        if self.given is not None:
            return {"model": self.given.digest, **own}
        return {**training_settings(self.config), **own}

    def training(self, seed: int) -> TrainConfig | None:
        """The settings of a model; None of a given one."""
        return None if self.given is not None else replace(self.config, seed=seed)
