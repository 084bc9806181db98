"""The systems that are compared: settings, where they come from, and how far they were tuned.

A system is an entry of `SYSTEMS` and nothing else: change its settings here, and its `tuning` with
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from equicert.bounds import Interval, Lipschitz, Method, SignSplit, Spectral
from equicert.presets import preset
from equicert.schedules import TrainConfig

INTERVAL: Final = "certify-interval"
LIPSCHITZ: Final = "certify-lipschitz"
SIGN_SPLIT: Final = "certify-sign-split"
SPECTRAL: Final = "certify-spectral"
METHODS: Final[Mapping[str, Method]] = {
    INTERVAL: Interval(),
    LIPSCHITZ: Lipschitz(),
    SIGN_SPLIT: SignSplit(),
    SPECTRAL: Spectral(),
}
CALLED: Final[Mapping[str, str]] = {
    INTERVAL: "interval (14)",
    LIPSCHITZ: "Lipschitz (13), derived",
    SIGN_SPLIT: "sign split",
    SPECTRAL: "l2 bound",
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
        "MON",
        TrainConfig(weights="monotone", kappa=0.0, epochs=15, learning_rate=1e-3, eps=0.03),
        "[WK20]; epochs and rate as (8)",
        0,
    ),
    System(
        "LBEN",
        TrainConfig(
            weights="lben",
            prescribed_lipschitz=1.0,
            kappa=0.0,
            epochs=15,
            learning_rate=1e-3,
            eps=0.03,
        ),
        "[R20], l2 Lipschitz bound 1; epochs and rate as (8)",
        0,
    ),
    System(
        "row-sum [EG21]",
        preset(
            "lipschitz-published",
            weights="row-sum",
            lipschitz_weight=1e-2,
            lipschitz_bound="row-sum",
        ),
        "[EG21]; epochs and rate as (8)",
        0,
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
    System(
        "nominal", preset("lipschitz-published", lipschitz_weight=0.0), "(8) with lambda = 0", 0
    ),
)
