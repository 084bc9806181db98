"""The training recipe: its settings, and how eps, kappa and the learning rate move.

No torch here, so that a command line can be built from `TrainConfig` at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_type_hints

from equicert.errors import ConfigError, nearest
from equicert.settings import (
    ANYTHING,
    OWN_SETTINGS,
    RANGES,
    ExplicitLayer,
    explicit_layers,
    short,
    typed,
)

# [J22] trains 40 epochs; its milestones keep their place in longer and shorter runs.
_PUBLISHED_EPOCHS: Final = 40
_PUBLISHED_MILESTONES: Final = {"ramp_start": 10, "ramp_end": 20, "late_epoch": 30}


_SPLITTING: Final = ("peaceman_rachford", "forward_backward")


@dataclass(frozen=True)
class Setting:
    """What one training step uses."""

    eps: float
    kappa: float
    learning_rate: float


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are the published recipe of [J22].

    Time runs continuously: step s of S in epoch e (both from 0) is at `e + s/S`. eps is 0 and kappa
    `kappa_start` until `ramp_start`; both move linearly, step by step, to their values at
    `ramp_end`.

    Example: `TrainConfig(hidden=50, eps=0.05, epochs=10)`.

    Args:
        recipe: the loss: "inclusion" is (11) of [J22], "lipschitz" is (8), "adversarial" that at
            points found by projected gradient ascent ([M18]), for empirical robustness;
            "small-box" is (11) over small boxes about such points ([M23]), for tight bounds.
        weights: the parametrisation of W: "contracting" is (12) of [J22], "row-sum" keeps
            ||W||_inf below a bound [EG21], "convolutional" is (12) for a convolution over images,
            "feed-forward" is a plain network with the layers named by `layers`, on which inclusion
            training is that of [G18]; "monotone" ([WK20]) and "lben" ([R20]), for comparison, train
            by the nominal loss, inclusion with kappa = 0, or adversarially, and are certified by
            their l2 bound.
        hidden: number n of hidden units; of feed-forward weights, `layers` says it.
        front: of contracting weights: explicit layers before the implicit block, the first one
            first: CHANNELSxKERNEL/STRIDE a convolution (padded by (KERNEL - 1) // 2 on each side),
            WIDTH a full layer, such as "16x4/2,32x4/2".
        normalisation: of contracting weights with a front: "batch" normalises each explicit layer
            by the statistics of the boxes' centres, which the trained network has folded in.
        image: of convolutional weights and fronts: channels x height x width of the inputs, for
            example "3x32x32"; default one square channel.
        channels: of convolutional weights: channels of the hidden units.
        kernel_size: of convolutional weights: of W's kernel.
        input_kernel_size: of convolutional weights: of U's kernel.
        stride: of convolutional weights: of U's kernel; the hidden units are an image of the size
            of the input's over the stride.
        padding: of convolutional weights: what lies beyond the border, zeros or the other side.
        layers: widths of the hidden layers of feed-forward weights, for example "100,75,50".
        activation: phi, for example "relu" or "leaky_relu(0.1)".
        gamma: of contracting weights: bound on mu(W), below 1; at most 0 makes all solves fast.
        row_sum_bound: of row-sum weights: bound on the absolute row sums of W, in (0, 1).
        m: of monotone and lben weights: their modulus, positive; larger makes solves faster.
        prescribed_lipschitz: of lben weights: a bound on the l2 Lipschitz constant to keep to.
        input_gain: U begins uniform on +-input_gain/sqrt(inputs); 1 is what torch.nn.Linear does,
            and less keeps the images of boxes narrow.
        eps: radius of the boxes in the sup-norm, in the units of the data: what is certified.
        overshoot: training boxes reach overshoot * eps, a little beyond what is certified.
        kappa: final weight of the robust or the adversarial loss beside the nominal one, in [0, 1].
        kappa_start: weight of that loss until eps begins to rise, in [0, 1].
        tau: with "small-box", radius of the small boxes over that of the whole ones, in (0, 1]; at
            1 it is "inclusion", near 0 "adversarial".
        attack_steps: with "adversarial" and "small-box", steps of the ascent, each a forward and an
            adjoint solve.
        attack_step_size: of those two, the size of each; default 2.5 radius / attack_steps, where
            radius is eps as it rises, with "small-box" (1 - tau) times that.
        lipschitz_weight: with "lipschitz", lambda, the weight of the Lipschitz bound.
        lipschitz_bound: with "lipschitz", "weighted" is Theorem 6.1 of [J22], "row-sum" that of
            [EG21] (for weights that keep ||W||_inf < 1), "derived" the tightest.
        epochs: passes over the training split.
        batch_size: samples a step.
        learning_rate: Adam's step size at the start, or after the warm-up.
        warmup: epochs over which Adam's step size rises to that linearly.
        decay: "step" lets it fall to learning_rate_late at late_epoch, "cosine" to 0 at the end by
            half a cosine, from decay_start on.
        decay_start: with "cosine", when the step size begins to fall, in epochs.
        learning_rate_late: with "step", Adam's step size from late_epoch on.
        late_epoch: with "step", when the step size falls; default 30/40 of the epochs.
        ramp_start: when eps and kappa begin to rise; default 10/40 of the epochs.
        ramp_end: when they reach their values; default 20/40 of the epochs.
        shift: training images are moved by up to so many pixels in both directions, at random.
        seed: of the initial weights and of the order of the samples.
        dtype: "float32" or "float64". What is stored and certified is always exactly the weights.
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads; default as many as torch uses. Recorded, and kept on resuming:
            results are bit-identical only for one number of threads.
        solver: of contracting weights "picard" (on the eliminated form), "anderson" (the same,
            accelerated where it is slow: gamma near 1), or "average" (that of [J22], the
            reference); of monotone and lben weights "peaceman_rachford" or "forward_backward".
            "default" is the first of each.
        tolerance: error radius in the sup-norm of z at which each solve stops.
        max_steps: limit of steps a solve.
        on_unconverged: "raise", or "warn" to warn once, count, and go on with what was reached.
        evaluate_samples: test samples, spread over the split, that are certified after each epoch;
            0 for none.

    Raises:
        ConfigError: a value of the wrong type or out of its range, named with the range; a setting
            of another recipe or of other weights than the chosen ones, which would be ignored.
    """

    recipe: Literal["inclusion", "lipschitz", "adversarial", "small-box"] = "inclusion"
    weights: Literal[
        "contracting", "row-sum", "convolutional", "feed-forward", "monotone", "lben"
    ] = "contracting"
    hidden: int = 100
    image: str | None = None
    front: str | None = None
    normalisation: Literal["none", "batch"] = "none"
    channels: int = 16
    kernel_size: int = 3
    input_kernel_size: int = 3
    stride: int = 2
    padding: Literal["zeros", "circular"] = "zeros"
    layers: str | None = None
    activation: str = "relu"
    gamma: float = 0.0
    row_sum_bound: float = 0.95
    m: float = 1.0
    prescribed_lipschitz: float | None = None
    input_gain: float = 0.3
    eps: float = 0.1
    overshoot: float = 1.0
    kappa: float = 0.75
    kappa_start: float = 0.0
    tau: float = 0.4
    attack_steps: int = 7
    attack_step_size: float | None = None
    lipschitz_weight: float = 1e-5
    lipschitz_bound: Literal["weighted", "row-sum", "derived"] = "weighted"
    epochs: int = _PUBLISHED_EPOCHS
    batch_size: int = 100
    learning_rate: float = 5e-4
    warmup: float = 0.0
    decay: Literal["step", "cosine"] = "step"
    decay_start: float = 0.0
    learning_rate_late: float = 1e-4
    late_epoch: float | None = None
    ramp_start: float | None = None
    ramp_end: float | None = None
    shift: int = 0
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    threads: int | None = None
    solver: Literal[
        "default", "picard", "anderson", "average", "peaceman_rachford", "forward_backward"
    ] = "default"
    tolerance: float = 1e-4
    max_steps: int = 2000
    on_unconverged: Literal["raise", "warn"] = "raise"
    evaluate_samples: int = 1000

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = typed(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            allowed, accepts = RANGES.get(field.name, ANYTHING)
            if value is not None and not accepts(value):
                raise ConfigError(f"{field.name} must be {allowed}, got {short(value)}")
        self._refuse_settings_of_others()
        self._check_layers()
        self._check_front()
        start, end = self.milestone("ramp_start"), self.milestone("ramp_end")
        if start > end:
            raise ConfigError(
                f"ramp_start must not exceed ramp_end, which is {end:g} of {self.epochs} epochs,"
                f" got {start:g}"
            )

        self._check_monotone()

    @property
    def monotone(self) -> bool:
        """Whether the weights are proved monotone, not contracting."""
        return self.weights in ("monotone", "lben")

    def _check_monotone(self) -> None:
        """Refuse a loss or a solver that these weights cannot have."""
        nominal = self.recipe == "inclusion" and self.kappa == 0
        if self.monotone and not nominal and self.recipe != "adversarial":
            raise ConfigError(
                f"{self.weights} weights have no losses of [J22], which need a contracting network:"
                " set recipe to inclusion and kappa to 0, or recipe to adversarial, got"
                f" {self.recipe} and {self.kappa:g}"
            )
        if self.solver != "default" and (self.solver in _SPLITTING) != self.monotone:
            raise ConfigError(
                f"the solver {self.solver} does not solve {self.weights} weights; leave it out"
            )

    def _refuse_settings_of_others(self) -> None:
        """Settings of a recipe or of weights that were not chosen: they would be ignored."""
        for kind, table in OWN_SETTINGS.items():
            chosen = getattr(self, kind)
            for other, name in ((other, name) for other, names in table.items() for name in names):
                if name not in table[chosen] and getattr(self, name) != getattr(type(self), name):
                    raise ConfigError(
                        f"{name} belongs to {kind} '{other}', not to '{chosen}'; leave it out"
                    )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """The config with these settings, and defaults for the rest.

        Raises:
            ConfigError: an unknown key, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"unknown setting {key!r}{nearest(str(key), known)}")
        return cls(**settings)

    @property
    def widths(self) -> tuple[int, ...]:
        """`layers` as numbers; empty where there are none.

        Raises:
            ConfigError: something else than positive integers separated by commas.
        """
        parts = [] if self.layers is None else self.layers.split(",")
        with contextlib.suppress(ValueError):
            widths = tuple(int(part) for part in parts)
            if all(width >= 1 for width in widths):
                return widths
        raise ConfigError(
            f"layers must be integers >= 1 separated by commas, such as 100,75,50, got"
            f" {short(self.layers)}"
        )

    @property
    def explicit(self) -> tuple[ExplicitLayer, ...]:
        """`front` as layers.

        Raises:
            ConfigError: it names none.
        """
        return explicit_layers(self.front)

    def _check_front(self) -> None:
        """Raise ConfigError where the front is unreadable, or missing for what belongs to it."""
        layers = self.explicit
        if not layers and self.normalisation != "none":
            raise ConfigError("normalisation is that of explicit layers: set front, too")
        convolves = self.weights == "convolutional" or (layers and layers[0].kernel_size)
        if self.image is not None and not convolves:
            raise ConfigError("image is for convolutions: set front to begin with one")
        if layers and self.recipe == "lipschitz":
            raise ConfigError("the lipschitz recipe bounds one implicit block: leave front out")

    @property
    def states(self) -> int:
        """n, the number of hidden units."""
        return self.hidden if self.layers is None else sum(self.widths)

    def _check_layers(self) -> None:
        """Raise ConfigError unless feed-forward weights have layers, which are numbers."""
        if self.weights == "feed-forward" and not self.widths:
            raise ConfigError("feed-forward weights need layers, such as 100,75,50")

    def to_mapping(self) -> dict[str, Any]:
        """All settings by name, as JSON and YAML hold them."""
        return asdict(self)

    def weight_settings(self) -> dict[str, Any]:
        """The settings of the chosen weights, of fronts only if there is one."""
        own = OWN_SETTINGS["weights"][self.weights]
        of_front = ("front", "normalisation", "image") if self.front is None else ()
        names = own if self.weights == "convolutional" else (n for n in own if n not in of_front)
        return {name: getattr(self, name) for name in names}

    def milestone(self, name: Literal["ramp_start", "ramp_end", "late_epoch"]) -> float:
        """A milestone in epochs: as set, else at the published fraction of `epochs`."""
        chosen = getattr(self, name)
        if chosen is not None:
            return chosen
        return self.epochs * _PUBLISHED_MILESTONES[name] / _PUBLISHED_EPOCHS

    def at(self, time: float) -> Setting:
        """What a step at `time`, in epochs from the start, uses."""
        start, end = self.milestone("ramp_start"), self.milestone("ramp_end")
        if start < end:
            risen = min(max((time - start) / (end - start), 0.0), 1.0)
        else:
            risen = float(time >= start)
        kappa = self.kappa_start + risen * (self.kappa - self.kappa_start)
        return Setting(risen * self.overshoot * self.eps, kappa, self._rate(time))

    def _rate(self, time: float) -> float:
        risen = min(time / self.warmup, 1.0) if self.warmup > 0 else 1.0
        return risen * self._warm_rate(time)

    def _warm_rate(self, time: float) -> float:
        if self.decay == "cosine":
            start = min(self.decay_start, self.epochs)
            passed = max(time - start, 0) / max(self.epochs - start, 1e-9)
            return self.learning_rate * (1 + math.cos(math.pi * passed)) / 2
        late = time >= self.milestone("late_epoch")
        return self.learning_rate_late if late else self.learning_rate
