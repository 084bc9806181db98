"""Figure 1 of [J22]: networks trained by (8) with six weights lambda, and a MON, over a grid."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from equicert.attacks import FGSM, PGD
from equicert.bounds import Interval, LipschitzRadius, Spectral, SpectralAtPoint
from equicert.errors import ConfigError
from equicert.experiments.study import (
    Study,
    Task,
    Variant,
    attacks,
    certificates,
    training_settings,
)
from equicert.lipschitz import Derived, Weighted
from equicert.presets import preset
from equicert.schedules import TrainConfig

MON: Final = "MON"
PRINTED: Final = "certify-printed"  # (13) by Theorem 6.1, or for MON the l2 bound, as printed
PER_MARGIN: Final = "certify-per-margin"  # (13) by the derived bound, for each margin
INTERVAL: Final = "certify-interval"  # (14)
SHARP: Final = "certify-sharp"  # the sharpened l2 bound of MON
BY_PGD: Final = "attack-pgd"
BY_FGSM: Final = "attack-fgsm"

LAMBDAS: Final = (0.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
RADII: Final = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2)
TABLE: Final = (0.01, 0.03, 0.05, 0.1)  # radii of the tables
QUICK_RADII: Final = (0.0, 0.005, *TABLE)


@dataclass(frozen=True)
class Figure1(Study):
    """The experiment and its settings; the defaults are those of [J22], with three seeds.

    For each seed a network is trained by (8) with each lambda, and a MON (m = 1) for as long by the
    nominal loss. All are certified at every radius on all test samples; the first `attacked`
    samples are attacked on the network of the lambda named last.

    Example:
        >>> study = Figure1(preset("lipschitz-published", epochs=5), seeds=1)
        >>> study.run(load_data("mnist"), "runs/figure1")

    Args:
        config: of Lipschitz training; its seed and its lambda are not used.
        seeds: number of seeds, 0, 1, ...
        radii: increasing, in the units of the data, from 0 on; those of the tables among them.
        lambdas: weights of the Lipschitz bound.
        limit: the first so many test samples; None for all.
        attacked: test samples that are attacked.
        pgd: the stronger attack; FGSM is the other.

    Raises:
        ConfigError: a value out of its range.
    """

    config: TrainConfig = field(default_factory=lambda: preset("lipschitz-published"))
    seeds: int = 3
    radii: tuple[float, ...] = RADII
    lambdas: tuple[float, ...] = LAMBDAS
    limit: int | None = None
    attacked: int = 1000
    pgd: PGD = field(default_factory=PGD)
    kind = "figure1"

    def __post_init__(self) -> None:
        self._check(self.radii, among=TABLE)
        if len(set(self.lambdas)) < max(2, len(self.lambdas)):
            raise ConfigError(f"lambdas must be two or more different ones, got {self.lambdas}")

    def variants(self) -> list[Variant]:
        trained = [
            Variant(name_of_lambda(weight), self.training(weight), self._tasks(weight))
            for weight in self.lambdas
        ]
        monotone = (
            *certificates(PRINTED, SpectralAtPoint(), self.radii, self.limit),
            *certificates(SHARP, Spectral(), self.radii, self.limit),
        )
        return [*trained, Variant(MON, self.monotone(), monotone)]

    def training(self, weight: float) -> TrainConfig:
        """The settings of the network with this lambda."""
        return replace(self.config, lipschitz_weight=weight)

    def monotone(self) -> TrainConfig:
        """The settings of the MON: the same number of steps of the same size."""
        nominal = {"recipe": "inclusion", "kappa": 0.0, "weights": "monotone", "m": 1.0}
        unused = {name: getattr(TrainConfig, name) for name in ("gamma", "lipschitz_bound")}
        weight = TrainConfig.lipschitz_weight
        return replace(self.config, **nominal, **unused, lipschitz_weight=weight)

    @property
    def attacked_lambda(self) -> float:
        """Of the network that is attacked: the last one, 1e-5."""
        return self.lambdas[-1]

    def _tasks(self, weight: float) -> tuple[Task, ...]:
        certified = (
            *certificates(PRINTED, LipschitzRadius(Weighted()), self.radii, self.limit),
            *certificates(PER_MARGIN, LipschitzRadius(Derived(), True), self.radii, self.limit),
            *certificates(INTERVAL, Interval(), self.radii, self.limit),
        )
        if weight != self.attacked_lambda:
            return certified
        first = self.first()
        return (
            *certified,
            *attacks(BY_PGD, self.pgd, self.radii, first),
            *attacks(BY_FGSM, FGSM(), self.radii, first),
        )

    def settings(self) -> dict[str, Any]:
        own = asdict(self) | {"radii": list(self.radii), "lambdas": list(self.lambdas)}
        del own["config"]
        unused = {"training_lipschitz_weight"}
        trained = training_settings(self.config).items()
        return {name: value for name, value in trained if name not in unused} | own


def name_of_lambda(weight: float) -> str:
    """The name of a variant."""
    return f"lambda = {weight:g}"
