"""Recipes: the loss of a training step, and what certifies the network that it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

from equicert.adversarial import SignAscent, adversarial_loss
from equicert.bounds import Interval, Lipschitz, Method
from equicert.boxes import Domain
from equicert.errors import ConfigError
from equicert.lipschitz import BOUNDS, LipschitzBound
from equicert.losses import Loss, inclusion_loss, lipschitz_loss
from equicert.network import ImplicitNetwork
from equicert.schedules import Setting, TrainConfig
from equicert.small_boxes import small_box_loss
from equicert.trainable import Trainable


class Recipe(ABC):
    """How a network is trained. Values of `parts` and `told` that do not apply are left out."""

    method: Method  # certifies after each epoch

    @abstractmethod
    def loss(
        self,
        network: Trainable,
        x: Tensor,  # (batch, r)
        labels: Tensor,  # (batch,) int64
        now: Setting,
        domain: Domain,
        rng: np.random.Generator,
    ) -> Loss:
        """The loss of one step; what is random in it is drawn from `rng`."""

    @abstractmethod
    def moving(self, now: Setting) -> Mapping[str, float]:
        """The settings of the loss at a moment, for the metrics."""

    @abstractmethod
    def told(self) -> Mapping[str, Any]:
        """The settings of the loss, for the model file."""


@dataclass(frozen=True)
class _OverBoxes(Recipe):
    """A loss that mixes the nominal one with one over boxes, which grow to eps; kappa to kappa."""

    eps: float
    kappa: float
    method = Interval()

    def moving(self, now: Setting) -> Mapping[str, float]:
        return {"eps": now.eps, "kappa": now.kappa}

    def told(self) -> Mapping[str, Any]:
        return {"trained_eps": self.eps, "trained_kappa": self.kappa}


@final
@dataclass(frozen=True)
class Inclusion(_OverBoxes):
    """The loss (11) of [J22], certified by (14)."""

    def loss(
        self,
        network: Trainable,
        x: Tensor,
        labels: Tensor,
        now: Setting,
        domain: Domain,
        rng: np.random.Generator,
    ) -> Loss:
        del rng
        return inclusion_loss(network, x, labels, now.eps, now.kappa, domain)


@final
@dataclass(frozen=True)
class LipschitzPenalty(Recipe):
    """The loss (8) of [J22], certified by (13) in its derived form."""

    weight: float
    bound: LipschitzBound
    method = Lipschitz()

    def loss(
        self,
        network: Trainable,
        x: Tensor,
        labels: Tensor,
        now: Setting,
        domain: Domain,
        rng: np.random.Generator,
    ) -> Loss:
        del now, domain, rng  # nothing of this loss moves, and it knows no boxes
        if not isinstance(network, ImplicitNetwork):
            raise ConfigError("the lipschitz recipe trains one implicit block, no layers before it")
        return lipschitz_loss(network, x, labels, self.weight, self.bound)

    def moving(self, now: Setting) -> Mapping[str, float]:
        del now
        return {}

    def told(self) -> Mapping[str, Any]:
        return {"lipschitz_weight": self.weight, "lipschitz_bound": self.bound.name}


@final
@dataclass(frozen=True)
class Adversarial(_OverBoxes):
    """The loss at points found by PGD [M18], a baseline for empirical robustness.

    Certified by (14), for comparison; nothing in the loss narrows the bounds that this needs.
    """

    ascent: SignAscent

    def loss(
        self,
        network: Trainable,
        x: Tensor,
        labels: Tensor,
        now: Setting,
        domain: Domain,
        rng: np.random.Generator,
    ) -> Loss:
        return adversarial_loss(
            network, x, labels, now.eps, now.kappa, self.ascent, rng, domain=domain
        )

    def told(self) -> Mapping[str, Any]:
        return {**super().told(), **_search(self.ascent)}


@final
@dataclass(frozen=True)
class SmallBox(_OverBoxes):
    """The loss (11) over boxes of radius tau eps about points found in the rest of the box [M23].

    Certified by (14) to see how far that reaches; it is meant for methods that search, which need
    bounds that are narrow on parts of the box only.
    """

    tau: float
    ascent: SignAscent

    def loss(
        self,
        network: Trainable,
        x: Tensor,
        labels: Tensor,
        now: Setting,
        domain: Domain,
        rng: np.random.Generator,
    ) -> Loss:
        return small_box_loss(
            network, x, labels, now.eps, now.kappa, self.tau, self.ascent, rng, domain=domain
        )

    def told(self) -> Mapping[str, Any]:
        return {**super().told(), "trained_tau": self.tau, **_search(self.ascent)}


def _search(ascent: SignAscent) -> Mapping[str, Any]:
    """The settings of a search, for the model file."""
    told: dict[str, Any] = {"attack_steps": ascent.steps}
    return told if ascent.step_size is None else told | {"attack_step_size": ascent.step_size}


def recipe_of(config: TrainConfig) -> Recipe:
    """The recipe that a config names."""
    if config.recipe == "lipschitz":
        return LipschitzPenalty(config.lipschitz_weight, BOUNDS[config.lipschitz_bound])
    ascent = SignAscent(config.attack_steps, config.attack_step_size)
    if config.recipe == "adversarial":
        return Adversarial(config.eps, config.kappa, ascent)
    if config.recipe == "small-box":
        return SmallBox(config.eps, config.kappa, config.tau, ascent)
    return Inclusion(config.eps, config.kappa)
