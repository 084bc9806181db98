"""`torch.nn.Sequential` networks as implicit networks, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

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
from equicert.network import ImplicitNetwork
from equicert.stored import StoredNetwork
from equicert.weights import FeedForward

# Beyond this, torch's Softplus returns its argument; float64 cannot tell the two apart from 40 on.
_SOFTPLUS_THRESHOLD: Final = 40.0
_LEAST_SOFTPLUS_THRESHOLD: Final = 20.0  # torch's default


def from_sequential(module: nn.Sequential, **settings: Any) -> ImplicitNetwork:
    """The implicit network that computes what a Sequential of Linear and activations does.

    Its states are the outputs of the hidden layers, its W has their matrices in `FeedForward`
    blocks, every entry exactly. Certify it, attack it, save it (by `store()`), or train it by
    inclusion functions, which is interval bound propagation on such a network ([G18]).

    Example:
        >>> module = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
        >>> network = from_sequential(module)
        >>> certify(network, x, label, eps=0.1, domain=(0.0, 1.0))

    Args:
        module: Linear layers, with or without bias, the last one last; between two of them the
            same activation throughout: ReLU, LeakyReLU (slope in [0, 1]), Tanh, Sigmoid, Softplus,
            Hardtanh (on [-1, 1]), ELU (alpha <= 1), or none (Identity). Flatten, and Dropout in
            evaluation mode, change nothing. A Sequential may hold others.
        settings: as `ImplicitNetwork` takes them: solver, tolerance, max_steps, on_unconverged.

    Raises:
        ModelError: a layer that has no such form, named by its index and type.
    """
    layers, activation = _layers(module)
    widths = [layer.out_features for layer in layers[:-1]]
    first, *middle, last = layers
    weight = FeedForward(widths)
    network = ImplicitNetwork(
        first.in_features,
        weight.states,
        last.out_features,
        activation=activation,
        weight=weight,
        **settings,
    ).to(first.weight)
    with torch.no_grad():
        for block, layer in zip(weight.blocks, middle, strict=True):
            block.copy_(layer.weight)
        U, C = torch.zeros_like(network.U), torch.zeros_like(network.C)
        U[: widths[0]], C[:, -widths[-1] :] = first.weight, last.weight
        network.U, network.C = U, C  # pyright: ignore[reportAttributeAccessIssue] - parametrised
        network.b.copy_(torch.cat([_bias(layer) for layer in layers[:-1]]))
        network.c.copy_(_bias(last))
    return network


def to_sequential(network: StoredNetwork, widths: Sequence[int]) -> nn.Sequential:
    """The plain network, in float64, that a feed-forward implicit network is: evaluation by layers.

    Example:
        >>> module = to_sequential(network.store(), network.weight.widths)

    Args:
        network: as `from_sequential(...).store()`, a training run or a file gives it.
        widths: number of states of each hidden layer, the first one first.

    Raises:
        ModelError: W, U or C has an entry outside the blocks of these layers.
    """
    W, U = network.W.dense(), network.U.dense()
    middle = _layer_blocks(W, widths)
    first, last = widths[0], widths[-1]
    for name, rest in (("U", U[first:]), ("C", network.C[:, :-last])):
        if bool((rest != 0).any()):
            raise ModelError(
                f"{name} is not feed-forward with layers of {', '.join(map(str, widths))} states:"
                f" it has entries beyond the {'first' if name == 'U' else 'last'} layer"
            )
    matrices = [U[:first], *middle, network.C[:, -last:]]
    biases = [*network.b.split(list(widths)), network.c]
    modules: list[nn.Module] = []
    for A, b in zip(matrices, biases, strict=True):
        modules += [_linear(A, b), _module(network.activation)]
    return nn.Sequential(*modules[:-1])


def _layer_blocks(
    W: Tensor,  # (n, n)
    widths: Sequence[int],
) -> list[Tensor]:  # (widths[k], widths[k-1]) each
    """The blocks of a feed-forward W, from the second layer on.

    Raises:
        ModelError: W is of another size, or has an entry outside the blocks.
    """
    n = sum(widths)
    if W.shape != (n, n):
        raise ModelError(
            f"layers of {', '.join(map(str, widths))} states are {n}, W is {tuple(W.shape)}"
        )
    ends = accumulate(widths, initial=0)
    spans = [slice(begin, end) for begin, end in pairwise(ends)]
    places = [(own, before) for before, own in pairwise(spans)]
    outside = W != 0  # true for NaN
    for place in places:
        outside[place] = False
    if bool(outside.any()):
        row, column = (int(i) for i in outside.nonzero()[0])
        raise ModelError(
            f"W is not feed-forward with layers of {', '.join(map(str, widths))} states: its entry"
            f" ({row}, {column}) is {float(W[row, column]):.6g}, outside the blocks between"
            " consecutive layers"
        )
    return [W[place] for place in places]


@dataclass(frozen=True)
class _Entry:
    """A layer of a Sequential, with its index as it is printed: "3", or "3.1" in a nested one."""

    index: str
    module: nn.Module

    def refused(self, why: str) -> ModelError:
        return ModelError(f"layer {self.index} ({type(self.module).__name__}) {why}")


def _layers(module: nn.Sequential) -> tuple[list[nn.Linear], Activation]:
    """The Linear layers, checked to follow one another, and the activation between them."""
    if type(module) is not nn.Sequential:
        raise ModelError(f"a torch.nn.Sequential is needed, got {type(module).__name__}")
    linear: list[tuple[_Entry, nn.Linear]] = []
    acting: Activation | None = None  # since the last Linear
    agreed: tuple[str, Activation] | None = None
    entry: _Entry | None = None
    for entry in _entries(module):
        layer = entry.module
        if type(layer) is nn.Linear:
            _check_linear(entry, layer, linear[-1][1] if linear else None)
            if linear:
                agreed = _agree(agreed, entry, acting or Identity())
            linear.append((entry, layer))
            acting = None
            continue
        found = _activation(entry)
        if found == Identity():
            continue
        if not linear:
            raise entry.refused("comes before the first Linear: apply it to the data instead")
        if acting is not None:
            raise entry.refused(
                f"follows another activation, {acting.spec}; keep one between two Linear layers"
            )
        acting = found
    if entry is None or not linear or acting is not None:
        last = "an empty Sequential" if entry is None else f"layer {entry.index}"
        raise ModelError(
            f"the last layer must be Linear, which reads the outputs; the last here is {last}"
            + ("" if entry is None else f" ({type(entry.module).__name__})")
        )
    if agreed is None:
        raise linear[0][0].refused(
            "is the only Linear: an implicit network needs a hidden layer before the last one"
        )
    return [layer for _, layer in linear], agreed[1]


def _entries(module: nn.Sequential, prefix: str = "") -> Iterator[_Entry]:
    for index, layer in enumerate(module):
        if type(layer) is nn.Sequential:
            yield from _entries(layer, f"{prefix}{index}.")
        else:
            yield _Entry(f"{prefix}{index}", layer)


def _agree(
    agreed: tuple[str, Activation] | None, entry: _Entry, found: Activation
) -> tuple[str, Activation]:
    """The activation of all gaps so far, and the Linear before which it was first seen."""
    if agreed is not None and agreed[1] != found:
        raise entry.refused(
            f"is reached by the activation {found.spec}, layer {agreed[0]} by {agreed[1].spec}: an"
            " implicit network has one activation; use the same one before every Linear"
        )
    return agreed or (entry.index, found)


def _check_linear(entry: _Entry, layer: nn.Linear, before: nn.Linear | None) -> None:
    kind = layer.weight.dtype
    if kind not in (torch.float32, torch.float64):
        raise entry.refused(f"has weights of type {kind}; convert the module with .float()")
    if before is None:
        return
    if kind != before.weight.dtype:
        raise entry.refused(
            f"has weights of type {kind}, those before it {before.weight.dtype}; convert the module"
            " with .float() or .double()"
        )
    if layer.in_features != before.out_features:
        raise entry.refused(
            f"takes {layer.in_features} inputs, the Linear before it has {before.out_features}"
            " outputs; correct one of them"
        )


def _activation(entry: _Entry) -> Activation:
    """The activation that a layer is; Identity for one that changes nothing."""
    read = _READ.get(type(entry.module))
    if read is None:
        known = ", ".join(kind.__name__ for kind in _READ)
        raise entry.refused(f"has no implicit form here; known are Linear, {known}")
    return read(entry)


def _flatten(entry: _Entry) -> Activation:
    layer: Any = entry.module
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise entry.refused("must flatten whole samples, start_dim=1 and end_dim=-1")
    return Identity()


def _dropout(entry: _Entry) -> Activation:
    if entry.module.training:
        raise entry.refused("is random in training mode; call .eval() on the module first")
    return Identity()


def _softplus(entry: _Entry) -> Activation:
    layer: Any = entry.module
    if layer.beta != 1 or layer.threshold < _LEAST_SOFTPLUS_THRESHOLD:
        raise entry.refused(
            f"has beta {layer.beta:g} and threshold {layer.threshold:g}; the softplus here is"
            f" log(1 + exp(t)), beta 1 and a threshold of at least {_LEAST_SOFTPLUS_THRESHOLD:g}"
        )
    return Softplus()


def _hard_tanh(entry: _Entry) -> Activation:
    layer: Any = entry.module
    if (layer.min_val, layer.max_val) != (-1, 1):
        raise entry.refused(
            f"clips to [{layer.min_val:g}, {layer.max_val:g}]; the one here clips to [-1, 1]"
        )
    return HardTanh()


def _with_parameter(
    kind: Callable[[float], Activation], name: str
) -> Callable[[_Entry], Activation]:
    def read(entry: _Entry) -> Activation:
        try:
            return kind(float(getattr(entry.module, name)))
        except ModelError as error:
            raise entry.refused(f"has no implicit form: {error}") from error

    return read


# Types are compared exactly: ReLU6, say, is a subclass of Hardtanh.
_READ: Final[dict[type[nn.Module], Callable[[_Entry], Activation]]] = {
    nn.ReLU: lambda _: ReLU(),
    nn.LeakyReLU: _with_parameter(LeakyReLU, "negative_slope"),
    nn.Tanh: lambda _: Tanh(),
    nn.Sigmoid: lambda _: Sigmoid(),
    nn.Softplus: _softplus,
    nn.Hardtanh: _hard_tanh,
    nn.ELU: _with_parameter(ELU, "alpha"),
    nn.Identity: lambda _: Identity(),
    nn.Flatten: _flatten,
    nn.Dropout: _dropout,
}


def _module(activation: Activation) -> nn.Module:
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


def _linear(
    A: Tensor,  # (q, r)
    b: Tensor,  # (q,)
) -> nn.Linear:
    layer = nn.Linear(A.shape[1], A.shape[0], dtype=A.dtype, device=A.device)
    with torch.no_grad():
        layer.weight.copy_(A)
        layer.bias.copy_(b)
    return layer


def _bias(layer: nn.Linear) -> Tensor:  # (q,)
    bias = dict(layer.named_parameters()).get("bias")
    return layer.weight.new_zeros(layer.out_features) if bias is None else bias
