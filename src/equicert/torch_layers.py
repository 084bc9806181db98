"""What the layers of a `torch.nn.Sequential` are, and which activation of ours each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equicert.activations import (
    ELU,
    Activation,
    HardTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Tanh,
)
from equicert.errors import ModelError

# Beyond this, torch's Softplus returns its argument; float64 cannot tell the two apart from 40 on.
_SOFTPLUS_THRESHOLD: Final = 40.0
_LEAST_SOFTPLUS_THRESHOLD: Final = 20.0  # torch's default


class LayerError(ModelError):
    """A layer that is refused, named."""


@dataclass(frozen=True)
class Entry:
    """A layer of a Sequential, with its index as it is printed: "3", or "3.1" in a nested one."""

    index: str
    module: nn.Module

    def refused(self, why: str) -> LayerError:
        """An error that names the layer."""
        return LayerError(f"layer {self.index} ({type(self.module).__name__}) {why}")


def flat(module: nn.Sequential) -> Iterator[Entry]:
    """The layers of a Sequential, those of nested ones in their place, with weights of one type.

    Raises:
        ModelError: it is no Sequential, something computes besides the layers themselves, or there
            are no weights yet, or none of float32 or float64, or of both.
    """
    if type(module) is not nn.Sequential:
        raise ModelError(f"a torch.nn.Sequential is needed, got {type(module).__name__}")
    if _computes_more(module):
        raise ModelError(f"the Sequential {_MORE}")
    kind: torch.dtype | None = None
    for entry in _entries(module):
        kind = _one_type(entry, kind)
        yield entry


def _entries(module: nn.Sequential, prefix: str = "") -> Iterator[Entry]:
    for index, layer in enumerate(module):
        entry = Entry(f"{prefix}{index}", layer)
        if any(is_lazy(parameter) or parameter.is_meta for parameter in layer.parameters()):
            raise entry.refused("has no weights yet: call the module once, or load its weights")
        if _computes_more(layer):
            raise entry.refused(_MORE)
        if type(layer) is nn.Sequential:
            yield from _entries(layer, f"{prefix}{index}.")
        else:
            yield entry


def _one_type(entry: Entry, before: torch.dtype | None) -> torch.dtype | None:
    """The type of its weights and of those before, None as long as there are none."""
    for parameter in entry.module.parameters():
        kind = parameter.dtype
        if kind not in (torch.float32, torch.float64):
            raise entry.refused(f"has weights of type {kind}; convert the module with .float()")
        if before not in (None, kind):
            raise entry.refused(
                f"has weights of type {kind}, those before it {before}; convert the module with"
                " .float() or .double()"
            )
        before = kind
    return before


_MORE: Final = (
    "has a hook or a forward of its own, of which no bounds are known; remove it, for example by"
    " torch.nn.utils.remove_weight_norm or prune.remove"
)


def _computes_more(layer: nn.Module) -> bool:
    """Whether its type does not say what it computes.

    Older forms of weight normalisation and pruning set a layer's weight in a hook, at each call.
    """
    hooks = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001
    return bool(hooks) or "forward" in vars(layer)


def scale_and_shift(
    layer: Any,  # BatchNorm1d or BatchNorm2d
    mean: Tensor,  # (channels,)
    var: Tensor,  # (channels,)
) -> tuple[Tensor, Tensor]:  # (channels,) each
    """What batch normalisation multiplies by and adds under these statistics, in their type."""
    factor = torch.rsqrt(var + layer.eps)
    if not layer.affine:
        return factor, -mean * factor
    factor = factor * layer.weight.to(factor)
    return factor, layer.bias.to(factor) - mean * factor


def torch_activation(entry: Entry, besides: str = "Linear") -> Activation:
    """The activation that a layer is; Identity for one that changes nothing.

    Raises:
        ModelError: it is none; `besides` are other layers that are known where it stands.
    """
    read = _READ.get(type(entry.module))
    if read is None:
        known = ", ".join(kind.__name__ for kind in _READ if kind.__name__ not in besides)
        raise entry.refused(f"has no implicit form here; known are {besides}, {known}")
    return read(entry)


def _flatten(entry: Entry) -> Activation:
    layer: Any = entry.module
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise entry.refused("must flatten whole samples, start_dim=1 and end_dim=-1")
    return Identity()


def _dropout(entry: Entry) -> Activation:
    if entry.module.training:
        raise entry.refused("is random in training mode; call .eval() on the module first")
    return Identity()


def _softplus(entry: Entry) -> Activation:
    layer: Any = entry.module
    if layer.beta != 1 or layer.threshold < _LEAST_SOFTPLUS_THRESHOLD:
        raise entry.refused(
            f"has beta {layer.beta:g} and threshold {layer.threshold:g}; the softplus here is"
            f" log(1 + exp(t)), beta 1 and a threshold of at least {_LEAST_SOFTPLUS_THRESHOLD:g}"
        )
    return Softplus()


def _hard_tanh(entry: Entry) -> Activation:
    layer: Any = entry.module
    if (layer.min_val, layer.max_val) != (-1, 1):
        raise entry.refused(
            f"clips to [{layer.min_val:g}, {layer.max_val:g}]; the one here clips to [-1, 1]"
        )
    return HardTanh()


def _with_parameter(
    kind: Callable[[float], Activation], name: str
) -> Callable[[Entry], Activation]:
    def read(entry: Entry) -> Activation:
        try:
            return kind(float(getattr(entry.module, name)))
        except ModelError as error:
            raise entry.refused(f"has no implicit form: {error}") from error

    return read


# Types are compared exactly: ReLU6, say, is a subclass of Hardtanh. All of these increase.
ACTIVATIONS: Final[dict[type[nn.Module], Callable[[Entry], Activation]]] = {
    nn.ReLU: lambda _: ReLU(),
    nn.LeakyReLU: _with_parameter(LeakyReLU, "negative_slope"),
    nn.Tanh: lambda _: Tanh(),
    nn.Sigmoid: lambda _: Sigmoid(),
    nn.Softplus: _softplus,
    nn.Hardtanh: _hard_tanh,
    nn.ELU: _with_parameter(ELU, "alpha"),
}
_READ: Final[dict[type[nn.Module], Callable[[Entry], Activation]]] = {
    **ACTIVATIONS,
    nn.Identity: lambda _: Identity(),
    nn.Flatten: _flatten,
    nn.Dropout: _dropout,
}


def module_of(activation: Activation) -> nn.Module:
    """The layer of torch that computes an activation."""
    match activation:
        case LeakyReLU(slope):
            return nn.LeakyReLU(slope)
        case ELU(alpha):
            return nn.ELU(alpha)
        case Softplus():
            return nn.Softplus(threshold=_SOFTPLUS_THRESHOLD)
        case _:
            plain = {ReLU: nn.ReLU, Tanh: nn.Tanh, Sigmoid: nn.Sigmoid, HardTanh: nn.Hardtanh}
            return {**plain, Identity: nn.Identity}[type(activation)]()
