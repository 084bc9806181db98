"""The systems that are compared: settings, where they come from, and how far they were tuned.

A system is an entry of `SYSTEMS` and nothing else: change its settings here, and its `tuning` with
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from equicert.bounds import Interval, Lipschitz, Method, SignSplit, Spectral, SpectralLmi
from equicert.presets import preset
from equicert.schedules import TrainConfig

INTERVAL: Final = "certify-interval"
LIPSCHITZ: Final = "certify-lipschitz"
SIGN_SPLIT: Final = "certify-sign-split"
SPECTRAL: Final = "certify-spectral"
LMI: Final = "certify-lmi"
METHODS: Final[Mapping[str, Method]] = {
    INTERVAL: Interval(),
    LIPSCHITZ: Lipschitz(),
    SIGN_SPLIT: SignSplit(),
    SPECTRAL: Spectral(),
    LMI: SpectralLmi(),
}
CALLED: Final[Mapping[str, str]] = {
    INTERVAL: "interval (14)",
    LIPSCHITZ: "Lipschitz (13), derived",
    SIGN_SPLIT: "sign split",
    SPECTRAL: "l2 ball",
    LMI: "l2 by matrix inequality",
}


@dataclass(frozen=True)
class System:
    """One way to train a network that is to be certified.

    Attributes:
        name: in tables and legends.
        config: of its training; the seed is not used.
        source: where the settings come from.
        tuning: training runs on this data before these settings were settled.
        methods: names in METHODS of the certificates that are tried; one that does not apply says
            why.
    """

    name: str
    config: TrainConfig
    source: str
    tuning: int
    methods: tuple[str, ...] = tuple(METHODS)


def _monotone(**settings: Any) -> TrainConfig:
    """Settings for the nominal loss, with epochs and rates of (8)."""
    like = preset("lipschitz-published")
    names = ("eps", "epochs", "learning_rate", "learning_rate_late")
    return TrainConfig(kappa=0.0, **{name: getattr(like, name) for name in names}, **settings)


SYSTEMS: Final = (
    System("inclusion", preset("published"), "[J22], (11)", 0),
    System("inclusion, best", preset("best"), "tuned here", 9),
    System(
        "Lipschitz (8)",
        preset("lipschitz-published", lipschitz_weight=1e-2, lipschitz_bound="derived"),
        "[J22], (8), with the derived bound",
        4,
    ),
    System(
        "row-sum [EG21]",
        preset(
            "lipschitz-published",
            weights="row-sum",
            lipschitz_weight=1e-2,
            lipschitz_bound="row-sum",
        ),
        "[EG21]; epochs, rate and lambda as (8)",
        1,
    ),
    System(
        "sign split [WeiK22]",
        preset("best", weights="row-sum"),
        "settings of the best inclusion recipe",
        0,
        (SIGN_SPLIT,),
    ),
    System(
        "feed-forward, IBP [G18]",
        preset("best", weights="feed-forward", layers="100,75,50,40,25", epochs=20, ramp_end=8.0),
        "the network of [J22]'s comparison",
        3,
    ),
    System("adversarial (PGD)", preset("adversarial"), "[M18]", 0),
    System(
        "nominal", preset("lipschitz-published", lipschitz_weight=0.0), "(8) with lambda = 0", 0
    ),
    System(
        "MON",
        _monotone(weights="monotone", m=50.0),
        "[WK20]; epochs and rate as (8), m certified the most at eps = 0.03 of 1, 5, 20 and 50",
        4,
    ),
    System(
        "LBEN",
        _monotone(weights="lben", prescribed_lipschitz=2.0),
        "[R20], l2 Lipschitz bound 2; epochs and rate as (8), that certified more at eps = 0.03"
        " than 5",
        2,
    ),
)
