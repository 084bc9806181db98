"""AutoAttack [C20] by pyautoattack: four attacks without parameters to tune, one after the other.

[C20] F. Croce, M. Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks, ICML 2020.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, final, get_args

import torch
from torch import Tensor

from equicert.attacks.base import Attack, Attempt, Target
from equicert.attacks.gradient import FGSM
from equicert.errors import ConfigError, InputError, nearest

Part: TypeAlias = Literal["apgd-ce", "apgd-t", "fab-t", "square"]

_PARTS: tuple[Part, ...] = get_args(Part)  # in the order of the standard version
_TARGETS = 9  # of the targeted parts, at most
_ROOM = 64  # radii about the boxes in which FAB may look, within the domain
_LOG = logging.getLogger(__name__)  # told of gradients that vanish, and silent unless configured
_LOG.addHandler(logging.NullHandler())
_SLACK = 2.0**-23  # two roundings to float32 on [0, 1], so that the corners of a box are reached


@final
@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack [C20], standard version for the sup-norm: APGD-CE, APGD-T, FAB-T, Square.

    Each part is given the samples that the stored network did not see broken by the parts before.
    The single step of `FGSM` is tried first, so that AutoAttack is never the weaker of the two.
    A part returns a point only where it succeeds, so the margin of a sample that stays unbroken is
    that of the single step or of x, and says less than PGD's.

    The library draws its random numbers for the batch as a whole: the same seed and the same batch
    give the same result, but a sample's result may depend on who shares the batch. The library
    works in float32 on [0, 1]; inputs are mapped there by `x = low + width t`, one width for all,
    which is the identity on the domain [0, 1] for eps >= 1/64. What it returns is mapped back and
    clamped into the exact box. Square sees the r inputs as an image of the most nearly square
    shape, rows first: for 28 x 28 images in one channel, the image itself.

    Args:
        parts: which parts, in this order. By default all four; on a network with fewer than 4
            outputs all but apgd-t, whose loss compares the 1st, 3rd and 4th greatest outputs.
        iterations: of APGD and FAB, for each target class; the standard version has 100.
        queries: of Square; the standard version has 5000.
        seed: of each part.

    Raises:
        ConfigError: parts empty, unknown or repeated; iterations or queries < 1; seed outside
            0..2^63 - 1.
        InputError: (from `run`) eps is not one number for all inputs and samples, or apgd-t is
            asked for on a network with fewer than 4 outputs.
    """

    parts: tuple[Part, ...] | None = None
    iterations: int = 100
    queries: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("queries", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value < 2**63:
                limits = f">= {least} and < 2^63"
                raise ConfigError(f"{name} must be a whole number {limits}, got {value!r}")
        if self.parts is None:
            return
        for part in self.parts:
            if part not in _PARTS:
                raise ConfigError(f"parts has no {part!r}{nearest(str(part), _PARTS)}")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ConfigError(f"parts must be one or more, each once, got {self.parts!r}")

    def attempts(self, target: Target) -> Sequence[Attempt]:
        if self.parts is not None and "apgd-t" in self.parts and target.outputs < 4:
            raise InputError(
                f"apgd-t needs a network with at least 4 outputs, got {target.outputs}; leave it"
                " out of parts"
            )
        radii = target.radius.unique()
        if len(radii) > 1:
            raise InputError(
                "autoattack needs one eps for all inputs and samples, got"
                f" {float(radii[0]):g} to {float(radii[-1]):g}; use PGD for boxes of other shapes"
            )
        parts = _PARTS if self.parts is None else self.parts
        usable: list[Part] = [part for part in parts if part != "apgd-t" or target.outputs >= 4]
        return [FGSM().step, *(partial(self._attempt, part=part) for part in usable)]

    def _attempt(self, target: Target, part: Part) -> tuple[Tensor]:
        model = _OnUnitCube(target)
        eps = float(target.radius[0, 0]) / model.width + _SLACK
        labels = target.labels.clone()
        with _shared_state_kept(), torch.no_grad():
            image = model.image(target.x)
            moved = self._library(part, model, eps).perturb(image.clone(), labels)
        points = model.point(moved)
        # A coordinate left alone is x itself, not x rounded to float32; so is one without value.
        points = torch.where((moved == image).flatten(1) | ~points.isfinite(), target.x, points)
        return (target.box.clamp(points),)

    def _library(self, part: Part, model: _OnUnitCube, eps: float) -> Any:
        """The library's object for a part, with the settings of its standard version."""
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from pyautoattack.fab_pt import FABAttack_PT
        from pyautoattack.square import SquareAttack

        shared: dict[str, Any] = {"eps": eps, "seed": self.seed, "device": model.low.device}
        rounds: dict[str, Any] = shared | {"n_restarts": 1, "n_iter": self.iterations}
        classes: dict[str, Any] = {"n_target_classes": min(_TARGETS, model.outputs - 1)}
        match part:
            case "apgd-ce":
                return APGDAttack(model, loss="ce", logger=_LOG, **rounds)
            case "apgd-t":
                return APGDAttack_targeted(model, logger=_LOG, **rounds, **classes)
            case "fab-t":
                return FABAttack_PT(model, targeted=True, **rounds, **classes)
            case "square":
                return SquareAttack(model, n_queries=self.queries, resc_schedule=False, **shared)


@contextmanager
def _shared_state_kept() -> Iterator[None]:
    """Restore what the library sets or relies on: torch's seeds on all devices, float32."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


class _OnUnitCube:
    """The network on images t in [0, 1], float32: `y(clamp(low + width t, low, high))`.

    [low, high] is the domain, cut off at some radii from the boxes: float32 has to resolve eps.
    """

    def __init__(self, target: Target) -> None:
        room = _ROOM * target.radius.amax()
        self.network, self.outputs = target.network, target.outputs
        self.low = torch.maximum(target.low, target.box.lo.amin(0) - room)
        self.high = torch.minimum(target.high, target.box.hi.amax(0) + room)
        self.width = float((self.high - self.low).amax()) or 1.0
        size = max(float(part.abs().amax()) for part in (target.network.C, target.network.c))
        self.unit = size / min(max(size, 2.0**-32), 2.0**32) or 1.0  # 1 for all but extreme outputs

    def __call__(
        self,
        images: Tensor,  # (batch, 1, h, w) float32
    ) -> Tensor:  # (batch, q) float32
        """The outputs less the greatest: no loss sees the difference, and float32 loses little."""
        # A division by a gradient of zero makes FAB's next point NaN; that stays within its row.
        images = torch.where(images.isfinite(), images, 0.5)
        y = self.network(self.point(images))
        return ((y - y.detach().amax(1, keepdim=True)) / self.unit).to(torch.float32)

    def image(
        self,
        x: Tensor,  # (batch, r)
    ) -> Tensor:  # (batch, 1, h, w) float32, h w = r
        """t, in the most nearly square shape."""
        inputs = x.shape[1]
        height = next(h for h in range(math.isqrt(inputs), 0, -1) if inputs % h == 0)
        cube = (x - self.low) / self.width
        return cube.to(torch.float32).reshape(len(x), 1, height, inputs // height)

    def point(
        self,
        images: Tensor,  # (batch, 1, h, w)
    ) -> Tensor:  # (batch, r) float64
        """x, in the domain."""
        x = self.low + self.width * images.flatten(1).to(torch.float64)
        return x.clamp(self.low, self.high)
