"""`torch.nn.Sequential` networks as implicit networks, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equicert.activations import Activation, Identity
from equicert.errors import ModelError
from equicert.network import ImplicitNetwork
from equicert.stored import StoredNetwork
from equicert.torch_layers import Entry, flat, module_of, torch_activation
from equicert.weights import FeedForward


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
        modules += [_linear(A, b), module_of(network.activation)]
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


def _layers(module: nn.Sequential) -> tuple[list[nn.Linear], Activation]:
    """The Linear layers, checked to follow one another, and the activation between them."""
    linear: list[tuple[Entry, nn.Linear]] = []
    acting: Activation | None = None  # since the last Linear
    agreed: tuple[str, Activation] | None = None
    entry: Entry | None = None
    for entry in flat(module):
        layer = entry.module
        if type(layer) is nn.Linear:
            _check_linear(entry, layer, linear[-1][1] if linear else None)
            if linear:
                agreed = _agree(agreed, entry, acting or Identity())
            linear.append((entry, layer))
            acting = None
            continue
        found = torch_activation(entry)
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


def _agree(
    agreed: tuple[str, Activation] | None, entry: Entry, found: Activation
) -> tuple[str, Activation]:
    """The activation of all gaps so far, and the Linear before which it was first seen."""
    if agreed is not None and agreed[1] != found:
        raise entry.refused(
            f"is reached by the activation {found.spec}, layer {agreed[0]} by {agreed[1].spec}: an"
            " implicit network has one activation; use the same one before every Linear"
        )
    return agreed or (entry.index, found)


def _check_linear(entry: Entry, layer: nn.Linear, before: nn.Linear | None) -> None:
    if before is not None and layer.in_features != before.out_features:
        raise entry.refused(
            f"takes {layer.in_features} inputs, the Linear before it has {before.out_features}"
            " outputs; correct one of them"
        )


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
