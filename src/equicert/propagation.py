"""Points and boxes through the layers of torch, for training: interval bound propagation [G18].

A box is carried as centre and radius: through `A v + b` they are `A c + b` and `|A| r`. Points that
come along share the products of the centres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from equicert.errors import ModelError
from equicert.torch_layers import ACTIVATIONS, scale_and_shift


class Flow(NamedTuple):
    """What passes through the layers.

    Attributes:
        middle: (batch, ...) points, or the centres of boxes; (2 batch, ...) points, then centres.
        radius: (batch, ...) of the boxes; None where there are points only.
    """

    middle: Tensor
    radius: Tensor | None = None

    def affine(
        self, centre: Callable[[Tensor], Tensor], magnitude: Callable[[Tensor], Tensor]
    ) -> Flow:
        """Through an affine map, and the absolute value of its linear part."""
        radius = None if self.radius is None else magnitude(self.radius)
        return Flow(centre(self.middle), radius)

    def monotone(self, phi: Callable[[Tensor], Tensor]) -> Flow:
        """Through an increasing map, entry by entry."""
        if self.radius is None:
            return Flow(phi(self.middle))
        points, lo, hi = self.parts()
        return joined(None if points is None else phi(points), phi(lo), phi(hi))

    def parts(self) -> tuple[Tensor | None, Tensor, Tensor]:  # (batch, ...) each
        """The points, if there are any, and the ends of the boxes."""
        if self.radius is None:
            raise ValueError("there are no boxes")
        batch = len(self.radius)
        points, centre = (
            self.middle.split(batch) if len(self.middle) > batch else (None, self.middle)
        )
        return points, centre - self.radius, centre + self.radius


def joined(
    points: Tensor | None,  # (batch, ...)
    lo: Tensor,  # (batch, ...)
    hi: Tensor,  # (batch, ...)
) -> Flow:
    """The flow of these points and boxes."""
    centre = 0.5 * (lo + hi)
    middle = centre if points is None else torch.cat([points, centre])
    # A computed phi may put neighbours out of order, by units in the last place.
    return Flow(middle, 0.5 * (hi - lo).clamp(min=0))


def through(layer: nn.Module, flow: Flow) -> Flow:
    """The flow behind a layer of torch.

    Raises:
        ModelError: nothing is known that bounds what this layer gives.
    """
    rule = RULES.get(type(layer))
    if rule is None:
        raise ModelError(
            f"no sound bounds are known for a layer {type(layer).__name__}; those with bounds are"
            f" {', '.join(sorted(kind.__name__ for kind in RULES))} and ImplicitNetwork"
        )
    return rule(layer, flow)


def _linear(layer: nn.Linear, flow: Flow) -> Flow:
    return flow.affine(layer, lambda r: functional.linear(r, layer.weight.abs()))


def _convolution(layer: nn.Conv2d, flow: Flow) -> Flow:
    def magnitude(r: Tensor) -> Tensor:
        weight = layer.weight.abs().to(memory_format=torch.channels_last)  # one channel forgets it
        return layer._conv_forward(r, weight, None)  # noqa: SLF001 - knows all paddings

    return flow.affine(layer, magnitude)


def _unsigned(layer: nn.Module, flow: Flow) -> Flow:
    """A linear layer whose entries are not negative."""
    return flow.affine(layer, layer)


def _increasing(layer: nn.Module, flow: Flow) -> Flow:
    # The ends of boxes share their memory with points, which one in place would write over.
    in_place = getattr(layer, "inplace", False)
    return flow.monotone((lambda v: layer(v.clone())) if in_place else layer)


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, flow: Flow) -> Flow:
    """With the statistics of the batch's boxes in training, of their centres or of the points.

    What a box is scaled by is then part of the function that is trained, and taken as exact; in
    evaluation the statistics are fixed, and the layer is affine.
    """
    middle = flow.middle
    own = middle if flow.radius is None else middle[-len(flow.radius) :]
    if layer.training:
        dims = [0, *range(2, own.ndim)]
        var, mean = torch.var_mean(own, dims, correction=0)
        _remember(layer, mean.detach(), var.detach(), own.numel() // own.shape[1])
    else:
        mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise ModelError("batch normalisation needs track_running_stats=True to be evaluated")
    shape = (-1, *[1] * (own.ndim - 2))
    factor, shift = (v.view(shape) for v in scale_and_shift(layer, mean, var))
    return flow.affine(lambda c: torch.addcmul(shift, c, factor), lambda r: r * factor.abs())


@torch.no_grad()
def _remember(layer: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor, n: int) -> None:
    """As torch keeps its running statistics."""
    if layer.running_mean is None or layer.running_var is None:
        return
    share = layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked += 1
        share = 1 / float(layer.num_batches_tracked) if share is None else share
    share = share or 0.0
    layer.running_mean.lerp_(mean, share)
    layer.running_var.lerp_(var * (n / max(n - 1, 1)), share)


def _dropped(layer: nn.Dropout, flow: Flow) -> Flow:
    if layer.training and layer.p > 0:
        raise ModelError("dropout in training mode is random: call .eval() on it or leave it out")
    return flow


RULES: Final[Mapping[type[nn.Module], Callable[..., Flow]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _normalised,
    nn.BatchNorm2d: _normalised,
    **dict.fromkeys((nn.AvgPool2d, nn.Flatten, nn.Unflatten, nn.Identity), _unsigned),
    **dict.fromkeys(ACTIVATIONS, _increasing),
    nn.Dropout: _dropped,
}
