"""Layers of torch and implicit blocks, one after another, as one stored implicit network.

Each activation ends a layer of states `z_k = phi(W_k z_k + L_k z_{k-1} + b_k)`: W is
block-triangular with `W_k` on the diagonal where the layer is an implicit block (0 elsewhere) and
`L_k` below it. What stands between two activations is affine and becomes one `L_k` and `b_k`: a
convolution or a matrix, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from equicert.activations import Activation, Identity
from equicert.affine_maps import Affine, pooling
from equicert.errors import ModelError
from equicert.network import ImplicitNetwork
from equicert.operators import (
    Blocks,
    Convolution,
    Dense,
    Geometry,
    Image,
    Margins,
    Operator,
    stacked,
)
from equicert.stored import StoredNetwork
from equicert.torch_layers import Entry, LayerError, flat, scale_and_shift, torch_activation


def assemble(module: nn.Sequential, inputs: int) -> StoredNetwork:
    """The implicit network, stored, that computes what a Sequential does in evaluation mode.

    Every entry of a Linear, of a Conv2d and of an implicit block is taken exactly where it stands
    alone between two activations. Affine layers in a row are multiplied out and batch normalisation
    is folded, in float64, and the numbers that come out are rounded to float32 where all parameters
    have that type: the stored network is what is certified, and differs from the module by such
    roundings.

    Example:
        >>> stored = assemble(nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 8, 3),
        ...     nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), ImplicitNetwork(1352, 50, 10)), 784)

    Args:
        module: Linear, Conv2d (zero or circular padding), BatchNorm in evaluation mode, AvgPool2d,
            Flatten, Unflatten, `ImplicitNetwork`, and activations, all the same: those of
            `from_sequential`. A Sequential may hold others.
        inputs: r; a sample is a row, and Unflatten(1, (channels, height, width)) makes it an image.

    Raises:
        ModelError: a layer that has no such form, or does not fit what comes before it, named by
            its index and type.
    """
    assembling = _Assembly(Affine(None, None, inputs, None))
    entry = None
    for entry in flat(module):
        rule = _RULES.get(type(entry.module), _acting)
        try:
            rule(assembling, entry)
        except LayerError:
            raise
        except ModelError as error:
            raise entry.refused(f"does not fit: {error}") from error
    if entry is None:
        raise ModelError("an empty Sequential has no outputs")
    network = assembling.network(entry)
    single = all(parameter.dtype == torch.float32 for parameter in module.parameters())
    return _in_float32(network) if single else network


class _Own(NamedTuple):
    """The equation of an implicit block: W, and the eta of its proof; float64."""

    W: Operator
    eta: Tensor  # (n,)


class _Assembly:
    """The layers so far, and what has been applied to the last one's states since."""

    def __init__(self, start: Affine) -> None:
        self.inputs = start.width
        self.pending = start
        self.links: list[Operator] = []  # of x, then of each layer's states
        self.own: list[_Own | None] = []
        self.biases: list[Tensor] = []
        self.agreed: tuple[str, Activation] | None = None

    def close(self, entry: Entry, phi: Activation, own: _Own | None = None) -> None:
        """A layer of states, of all that is pending."""
        if self.agreed is not None and self.agreed[1] != phi:
            raise entry.refused(
                f"acts by {phi.spec}, layer {self.agreed[0]} by {self.agreed[1].spec}: an implicit"
                " network has one activation; use the same one everywhere"
            )
        self.agreed = self.agreed or (entry.index, phi)
        A, b = self.pending.A, self.pending.b
        if A is None:
            raise entry.refused(
                "acts on what nothing was done to: put a Linear or Conv2d before it"
            )
        self.links.append(A)
        self.biases.append(torch.zeros(A.shape[0], dtype=torch.float64) if b is None else b)
        self.own.append(own)
        self.pending = Affine(None, None, A.shape[0], self.pending.image)

    def network(self, last: Entry) -> StoredNetwork:
        """The network, whose outputs are what is pending now."""
        if self.agreed is None:
            raise last.refused("comes after no activation and no implicit block: there is no state")
        if self.pending.A is None:
            raise last.refused("ends the module; an ImplicitNetwork or a Linear must, to read y")
        *begins, n = accumulate((len(b) for b in self.biases), initial=0)
        found = list(zip(begins[1:], begins, self.links[1:], strict=False))
        own = [(begin, made) for begin, made in zip(begins, self.own, strict=True) if made]
        found += [(begin, begin, made.W) for begin, made in own]
        q = self.pending.A.shape[0]
        C = torch.zeros(q, n, dtype=torch.float64)
        C[:, begins[-1] :] = self.pending.A.dense()
        c = torch.zeros(q, dtype=torch.float64) if self.pending.b is None else self.pending.b
        b, phi = torch.cat(self.biases), self.agreed[1]
        if len(begins) == 1:  # nothing but one block
            W = found[0][2] if found else Dense(torch.zeros(n, n, dtype=torch.float64))
            return StoredNetwork(W, self.links[0], b, C, c, phi, self._eta())
        U = stacked((n, self.inputs), [(0, 0, self.links[0])])
        return StoredNetwork(stacked((n, n), found), U, b, C, c, phi, self._eta())

    def _eta(self) -> Tensor:  # (n,)
        """`eta_1 = 1`; `eta_k = max(1, (1 + 1/L) l)`, `l = |L_k| eta_{k-1}`, of explicit layers.

        Of an implicit block with Metzler majorant M and weights e of its own norm `s e`, with
        `s = (1 + 1/L) max_i l_i / (e - M e)_i` (derived here; for the factor see `FeedForward`).
        Then `M s e + l < s e`: the whole contracts, whatever the links are. A hint, as always.
        """
        factor = 1 + 1 / len(self.links)
        parts: list[Tensor] = []
        for link, made in zip([None, *self.links[1:]], self.own, strict=True):
            n = len(self.biases[len(parts)])
            lift = None if link is None else link.absolute().apply(parts[-1][None])[0]
            part = torch.ones(n, dtype=torch.float64)
            if made is not None:
                part = made.eta
                if lift is not None:
                    slack = part - made.W.majorant().apply(part[None])[0]
                    scale = factor * (lift / slack).amax()
                    part = part * (scale if scale > 0 else 1)
            elif lift is not None:
                part = torch.maximum(lift * factor, part)
            parts.append(part)
        return torch.cat(parts)


def _double(A: Operator) -> Operator:
    """In float64 on the CPU."""
    return A.detach().to("cpu", torch.float64)


def _in_float32(network: StoredNetwork) -> StoredNetwork:
    """The network with its numbers rounded to float32; eta, a hint, is left."""
    W, U = network.W.map(_single), network.U.map(_single)
    b, C, c = (_single(part) for part in (network.b, network.C, network.c))
    return replace(network, W=W, U=U, b=b, C=C, c=c)


def _single(values: Tensor) -> Tensor:
    """The nearest numbers of float32, where that holds them; float64."""
    nearest = values.float().double()
    return torch.where(nearest.isfinite(), nearest, values)


def _exact(values: Tensor | None) -> Tensor | None:
    return None if values is None else _some(values)


def _some(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)


def _require_rows(made: _Assembly, entry: Entry, inputs: int) -> None:
    """Raise LayerError unless rows of this width come before the layer."""
    if made.pending.image is not None:
        raise entry.refused("reads rows, and images come before it: put a Flatten between them")
    if inputs != made.pending.width:
        raise entry.refused(f"takes {inputs} inputs, what comes before it has {made.pending.width}")


def _acting(made: _Assembly, entry: Entry) -> None:
    phi = torch_activation(entry, ", ".join(kind.__name__ for kind in _RULES))
    if phi != Identity():
        made.close(entry, phi)


def _linear(made: _Assembly, entry: Entry) -> None:
    layer: Any = entry.module
    _require_rows(made, entry, layer.in_features)
    made.pending = made.pending.then(Dense(_some(layer.weight)), _exact(layer.bias), None)


def _convolution(made: _Assembly, entry: Entry) -> None:
    layer: Any = entry.module
    image = _image(made, entry)
    if layer.groups != 1 or tuple(layer.dilation) != (1, 1) or len(set(layer.stride)) != 1:
        raise entry.refused("has groups, dilation or strides that differ; they have no form here")
    if layer.padding_mode not in ("zeros", "circular"):
        raise entry.refused(f"pads by {layer.padding_mode!r}; known are zeros and circular")
    kernel = _some(layer.weight)
    # As torch pads for padding="same": the smaller half above and on the left.
    if layer.padding == "same":
        margins = Margins.same(*kernel.shape[2:])
    else:
        high, wide = (0, 0) if layer.padding == "valid" else layer.padding
        margins = Margins(high, high, wide, wide)
    circular = layer.padding_mode == "circular"
    A = Convolution(kernel, Geometry(image, margins, layer.stride[0], circular))
    b = _exact(layer.bias)
    b = None if b is None else b.repeat_interleave(math.prod(A.output[1:]))
    made.pending = made.pending.then(A, b, A.output)


def _pooling(made: _Assembly, entry: Entry) -> None:
    layer: Any = entry.module
    image = _image(made, entry)
    size, stride, padding = (_one(v) for v in (layer.kernel_size, layer.stride, layer.padding))
    plain = not layer.ceil_mode and layer.divisor_override is None and padding == 0
    if size is None or stride is None or not plain:
        raise entry.refused("must be square, without padding, ceil_mode or divisor_override")
    A = pooling(image, size, stride)
    made.pending = made.pending.then(A, None, A.output)


def _one(value: int | tuple[int, int]) -> int | None:
    """The number that both directions have."""
    pair = (value, value) if isinstance(value, int) else value
    return pair[0] if pair[0] == pair[1] else None


def _image(made: _Assembly, entry: Entry) -> Image:
    if made.pending.image is None:
        raise entry.refused(
            "reads images, and rows come before it: put an Unflatten(1, (channels, height, width))"
            " between them"
        )
    return made.pending.image


def _normalisation(made: _Assembly, entry: Entry) -> None:
    layer: Any = entry.module
    if layer.training:
        raise entry.refused(
            "is in training mode, where what it does depends on the batch; call .eval() first"
        )
    if layer.running_mean is None or layer.running_var is None:
        raise entry.refused("keeps no running statistics; make it with track_running_stats=True")
    image, width = made.pending.image, made.pending.width
    if isinstance(layer, nn.BatchNorm1d) != (image is None):
        raise entry.refused(f"does not normalise the {'rows' if image is None else 'images'} here")
    channels = width if image is None else image.channels
    if layer.num_features != channels:
        raise entry.refused(f"has {layer.num_features} features, {channels} come before it")
    found = scale_and_shift(layer, _some(layer.running_mean), _some(layer.running_var))
    factor, shift = (v.detach().repeat_interleave(width // channels) for v in found)
    made.pending = made.pending.scaled(factor, shift)


def _flatten(made: _Assembly, entry: Entry) -> None:
    torch_activation(entry)  # refuses parts of samples
    made.pending = made.pending.shaped(None)


def _unflatten(made: _Assembly, entry: Entry) -> None:
    layer: Any = entry.module
    shape = tuple(layer.unflattened_size)
    width = made.pending.width
    if layer.dim != 1 or len(shape) != 3 or min(shape) < 1 or math.prod(shape) != width:
        raise entry.refused(
            f"must make images of samples of {width} numbers: Unflatten(1, (channels, height,"
            f" width)); got {layer.dim}, {shape}"
        )
    made.pending = made.pending.shaped(Image(*shape))


def _block(made: _Assembly, entry: Entry) -> None:
    block: Any = entry.module
    _require_rows(made, entry, block.inputs)
    at = block.materialise()
    if isinstance(at.W, Blocks) or isinstance(at.U, Blocks):
        raise entry.refused("was put together from layers itself; put those into this Sequential")
    made.pending = made.pending.then(_double(at.U), _exact(at.b), None)
    eta = at.contraction.eta.to("cpu", torch.float64)
    made.close(entry, block.activation, _Own(_double(at.W), eta))
    made.pending = made.pending.then(Dense(_some(block.C)), _exact(block.c), None)


_RULES: Final[Mapping[type[nn.Module], Callable[[_Assembly, Entry], None]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.AvgPool2d: _pooling,
    nn.BatchNorm1d: _normalisation,
    nn.BatchNorm2d: _normalisation,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    ImplicitNetwork: _block,
}
