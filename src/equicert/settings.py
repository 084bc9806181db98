"""What each setting of a training run may be, and to which choice it belongs.

No torch here, so that a command line can be built at once.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Final, NamedTuple, get_args

from equicert.errors import ConfigError

_RAMPED: Final = ("overshoot", "kappa", "kappa_start", "ramp_start", "ramp_end")
# Settings that belong to some recipes, or to some parametrisations of W.
OWN_SETTINGS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "recipe": {
        "inclusion": _RAMPED,
        "lipschitz": ("lipschitz_weight", "lipschitz_bound"),
        "adversarial": (*_RAMPED, "attack_steps", "attack_step_size"),
        "small-box": (*_RAMPED, "tau", "attack_steps", "attack_step_size"),
    },
    "weights": {
        "contracting": ("hidden", "gamma", "front", "normalisation", "image"),
        "row-sum": ("hidden", "row_sum_bound"),
        "convolutional": (
            *("image", "channels", "kernel_size", "input_kernel_size", "stride", "padding"),
            "gamma",
        ),
        "feed-forward": ("layers",),
        "monotone": ("hidden", "m"),
        "lben": ("hidden", "m", "prescribed_lipschitz"),
    },
}

_Range = tuple[str, Callable[[Any], bool]]
ANYTHING: Final[_Range] = ("anything", lambda _: True)
_COUNT: Final[_Range] = ("an integer >= 1", lambda v: v >= 1)
_POSITIVE: Final[_Range] = ("finite and > 0", lambda v: 0 < v < math.inf)
_NOT_NEGATIVE: Final[_Range] = ("finite and >= 0", lambda v: 0 <= v < math.inf)
RANGES: Final[dict[str, _Range]] = {
    "hidden": _COUNT,
    "channels": _COUNT,
    "kernel_size": _COUNT,
    "input_kernel_size": _COUNT,
    "stride": _COUNT,
    "gamma": ("finite and < 1", lambda v: -math.inf < v < 1),
    "row_sum_bound": ("in (0, 1)", lambda v: 0 < v < 1),
    "m": _POSITIVE,
    "shift": ("an integer >= 0", lambda v: v >= 0),
    "prescribed_lipschitz": _POSITIVE,
    "input_gain": _POSITIVE,
    "eps": _NOT_NEGATIVE,
    "overshoot": _POSITIVE,
    "kappa": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "kappa_start": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "decay_start": _NOT_NEGATIVE,
    "tau": ("in (0, 1]", lambda v: 0 < v <= 1),
    "attack_steps": _COUNT,
    "attack_step_size": _POSITIVE,
    "lipschitz_weight": _NOT_NEGATIVE,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "warmup": _NOT_NEGATIVE,
    "learning_rate_late": _POSITIVE,
    "late_epoch": _NOT_NEGATIVE,
    "ramp_start": _NOT_NEGATIVE,
    "ramp_end": _NOT_NEGATIVE,
    "seed": ("an integer in [0, 2^63)", lambda v: 0 <= v < 2**63),
    "threads": _COUNT,
    "tolerance": _POSITIVE,
    "max_steps": _COUNT,
    "evaluate_samples": ("an integer >= 0", lambda v: v >= 0),
}


def typed(name: str, value: object, hint: Any) -> object:
    """The value as the type of its field; integers serve as floats, booleans as no number."""
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    number = not isinstance(value, bool)
    kind = next((kind for kind in (int, float, str) if kind is hint or kind in options), None)
    if kind is int and isinstance(value, Integral) and number:
        return int(value)
    if kind is float and isinstance(value, Real) and number:
        with contextlib.suppress(OverflowError):
            return float(value)
    if (kind is str and isinstance(value, str)) or (kind is None and value in options):
        return value
    kinds = {int: "an integer", float: "a number that float64 holds", str: "a text"}
    wanted = kinds[kind] if kind else f"one of {', '.join(options)}"
    raise ConfigError(f"{name} must be {wanted}, got {short(value)}")


class ExplicitLayer(NamedTuple):
    """A layer before the implicit block.

    Attributes:
        width: of its outputs, of a convolution its channels.
        kernel_size: of a convolution; None for a matrix.
        stride: of a convolution.
    """

    width: int
    kernel_size: int | None = None
    stride: int = 1


_LAYER: Final = re.compile(r"([1-9]\d{0,5})(?:x([1-9]\d?)(?:/([1-9]\d?))?)?")


def explicit_layers(text: str | None) -> tuple[ExplicitLayer, ...]:
    """The layers of a text such as "16x4/2,32x4/2,256"; none of None.

    Raises:
        ConfigError: something else, or a convolution behind a matrix.
    """
    found = [_LAYER.fullmatch(part.strip()) for part in (text or "").split(",") if text is not None]
    made = [_explicit(*match.groups()) for match in found if match]
    kinds = [layer.kernel_size is None for layer in made]
    if len(made) == len(found) and kinds == sorted(kinds):
        return tuple(made)
    raise ConfigError(
        "front must be CHANNELSxKERNEL or CHANNELSxKERNEL/STRIDE for convolutions, then widths of"
        f" full layers, separated by commas, such as 16x4/2,32x4/2,100; got {short(text)}"
    )


def _explicit(width: str, kernel: str | None, stride: str | None) -> ExplicitLayer:
    return ExplicitLayer(int(width), None if kernel is None else int(kernel), int(stride or 1))


def short(value: object) -> str:
    """The value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
