"""Figure 2 of [J22]: a robust and a non-robust network over a grid of radii."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from equicert.attacks import PGD
from equicert.bounds import Interval
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

ROBUST: Final = "robust"
NOT_ROBUST: Final = "not robust"
MODELS: Final = (ROBUST, NOT_ROBUST)
CERTIFY: Final = "certify"  # by (14), boxes clipped
UNCLIPPED: Final = "certify-unclipped"
ATTACK: Final = "attack"


def grid(eps_max: float = 0.2, step: int = 1) -> tuple[float, ...]:
    """Radii from 0 up to `eps_max`, every `step` hundredths, each the float64 nearest k/100.

    Raises:
        ConfigError: eps_max is not in [0.1, 1]: the published values are at 0.1.
    """
    if not FIGURE2_EPS <= eps_max <= 1:
        raise ConfigError(f"eps_max must be in [{FIGURE2_EPS:g}, 1], got {eps_max:g}")
    return tuple(k / 100 for k in range(0, 101, step) if k / 100 <= eps_max)


@dataclass(frozen=True)
class Figure2(Study):
    """The experiment and its settings; the defaults are those of [J22], with three seeds.

    For each seed two models are trained: one by `config`, and one by the same with eps = 0 and
    kappa = 0. Each is certified by the interval method (14) at every radius, on all test samples,
    and attacked by PGD: at `eps` all of them, elsewhere the first `attacked`.

    Example:
        >>> study = Figure2(TrainConfig(epochs=10), seeds=1)
        >>> study.run(load_data("mnist"), "runs/figure2")
        >>> models = measure(study, "runs/figure2")

    Args:
        config: of the robust model; its seed is not used.
        seeds: number of seeds, 0, 1, ...
        radii: increasing, in the units of the data, from 0 on.
        eps: the one of the radii at which values are published.
        limit: the first so many test samples; None for all.
        attacked: test samples that are attacked at the radii other than `eps`.
        pgd: the attack.

    Raises:
        ConfigError: a value out of its range.
    """

    config: TrainConfig = field(default_factory=TrainConfig)
    seeds: int = 3
    radii: tuple[float, ...] = grid()
    eps: float = FIGURE2_EPS
    limit: int | None = None
    attacked: int = 1000
    pgd: PGD = field(default_factory=PGD)

    kind = "figure2"

    def __post_init__(self) -> None:
        self._check(self.radii)
        if self.eps not in self.radii[1:]:
            raise ConfigError(f"eps must be one of the radii {self.radii[1:]}, got {self.eps:g}")

    def training(self, model: str, seed: int) -> TrainConfig:
        """The settings of one model."""
        if model == ROBUST:
            return replace(self.config, seed=seed)
        return replace(self.config, seed=seed, eps=0.0, kappa=0.0)

    def variants(self) -> list[Variant]:
        return [Variant(name, self.training(name, 0), self._tasks()) for name in MODELS]

    def _tasks(self) -> tuple[Task, ...]:
        few = [eps for eps in self.radii if eps != self.eps]
        return (
            *certificates(CERTIFY, Interval(), self.radii, self.limit),
            *certificates(UNCLIPPED, Interval(), [self.eps], self.limit, clipped=False),
            *attacks(ATTACK, self.pgd, [self.eps], self.limit),
            *attacks(ATTACK, self.pgd, few, self.first()),
        )

    def settings(self) -> dict[str, Any]:
        own = asdict(self) | {"radii": list(self.radii), "pgd": asdict(self.pgd)}
        del own["config"]
        return {**training_settings(self.config), **own}
