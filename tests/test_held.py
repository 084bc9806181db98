"""A stored network holds tensors of its own, in places where the checker finds them, too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equicert.activations import Tanh
from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.certification import certify
from equicert.errors import ModelError
from equicert.layered import LayeredNetwork
from equicert.models import load_model, save_model
from equicert.network import ImplicitNetwork
from equicert.operators import (
    Convolution,
    Dense,
    Geometry,
    Image,
    Margins,
    Operator,
    stacked,
)
from equicert.stored import StoredNetwork

IMAGE = Geometry(Image(1, 2, 2), Margins(1, 1, 1, 1))


def drawn(*shape: int, seed: int = 0, scale: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def held(W: Operator, U: Operator) -> StoredNetwork:
    n = W.shape[0]
    b, C, c = torch.ones(n), drawn(3, n, seed=1, scale=1.0), torch.zeros(3)
    return StoredNetwork.from_arrays(W, U, b, C, c, eta=torch.ones(n))


def tensors(network: StoredNetwork) -> list[Tensor]:
    found = [*network.W.tensors().values(), *network.U.tensors().values(), network.b, network.C]
    hints = (network.eta, network.Lambda)
    return [*found, network.c, *(hint for hint in hints if hint is not None)]


def test_what_it_is_made_of_may_change() -> None:
    """As the weights of a module in float64 do, of which `.double()` is no copy."""
    parts = [drawn(1, 1, 3, 3), drawn(1, 1, 3, 3, seed=2, scale=1.0)]
    b, eta = torch.ones(4).double(), torch.ones(4).double()
    C, c = drawn(2, 4, seed=3), torch.zeros(2).double()
    W, U = (Convolution(kernel, IMAGE) for kernel in parts)
    network = StoredNetwork(W, U, b, C, c, Tanh(), eta)
    box = Box.around(torch.zeros(1, 4), 0.1)
    before, digest = Interval().state_box(network, box), network.digest
    for tensor in (*parts, b, C, c, eta):
        tensor.mul_(-100)
    after = Interval().state_box(dataclasses.replace(network), box)  # which remembers nothing
    assert torch.equal(before.lo, after.lo)
    assert torch.equal(before.hi, after.hi)
    assert dataclasses.replace(network).digest == digest


@pytest.mark.parametrize("structured", [False, True])
def test_a_module_made_of_it_may_be_loaded_over(structured: bool) -> None:
    kernels = [drawn(1, 1, 3, 3, seed=seed) for seed in (0, 1)]
    made = [held(Convolution(kernel, IMAGE), Dense(drawn(4, 2, seed=5))) for kernel in kernels]
    if not structured:
        made = [dataclasses.replace(each, W=Dense(each.W.dense())) for each in made]
    first, second = made
    kept = [tensor.clone() for tensor in tensors(first)]
    module = ImplicitNetwork.from_stored(first)
    module.load_state_dict(ImplicitNetwork.from_stored(second).state_dict())
    assert all(map(torch.equal, tensors(first), kept))
    x = drawn(5, 2, seed=9, scale=1.0)
    torch.testing.assert_close(module(x), second.predict(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_goes_on_without_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = (nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2, bias=False), nn.ReLU(), nn.Flatten())
    network = LayeredNetwork(nn.Sequential(*layers, ImplicitNetwork(2, 3, 2)).to(dtype), 4)
    stored = network.store()
    kept = [tensor.clone() for tensor in tensors(stored)]
    verdicts = certify(stored, torch.zeros(1, 4), 0, 0.1)
    network(torch.ones(2, 4, dtype=dtype)).sum().backward()
    torch.optim.SGD(network.parameters(), lr=10.0).step()
    assert all(map(torch.equal, tensors(stored), kept))
    assert certify(dataclasses.replace(stored), torch.zeros(1, 4), 0, 0.1) == verdicts


# Where structures may stand: as the checker has it, so that what is written can be read.

OWN = Convolution(torch.zeros(1, 1, 1, 1).double(), Geometry(Image(1, 2, 1), Margins(0, 0, 0, 0)))
OWN = dataclasses.replace(OWN, own=torch.ones(2).double())
TURNED = Convolution(drawn(4, 1, 2, 2), Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0)))
PIXEL = Convolution(drawn(1, 1, 1, 1), Geometry(Image(1, 1, 1), Margins(0, 0, 0, 0), 2))
SQUARE = Dense(torch.zeros(4, 4).double())
MISPLACED: dict[str, tuple[Operator, Operator, str]] = {
    "W turns images": (TURNED, Dense(drawn(4, 2)), r"maps \(1, 2, 2\) to \(4, 1, 1\)"),
    "a block of W does": (stacked((4, 4), [(0, 0, TURNED)]), Dense(drawn(4, 2)), "maps images to"),
    "W with a stride": (PIXEL, Dense(drawn(1, 2)), "with stride 2"),
    "a diagonal off W's": (stacked((4, 4), [(2, 0, OWN)]), Dense(drawn(4, 2)), "a diagonal of its"),
    "U's diagonal": (Dense(drawn(2, 2)), OWN, "a diagonal of its own has W only"),
    "a diagonal in U": (SQUARE, stacked((4, 2), [(0, 0, OWN)]), "a diagonal of its own has W only"),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_structures_that_no_checker_reads_are_refused(name: str) -> None:
    W, U, said = MISPLACED[name]
    with pytest.raises(ModelError, match=said) as refused:
        held(W, U)
    assert "\n" not in str(refused.value)


def test_a_file_of_such_a_structure_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "turned.safetensors"
    kernel = drawn(1, 1, 2, 2)
    save_model(
        path,
        held(
            Convolution(kernel, dataclasses.replace(IMAGE, margins=Margins(0, 1, 0, 1))),
            Dense(drawn(4, 2)),
        ),
    )
    contents = path.read_bytes()
    assert b"stride 1 zeros 0 1 0 1" in contents
    path.write_bytes(contents.replace(b"stride 1 zeros 0 1 0 1", b"stride 2 zeros 1 1 1 1"))
    with pytest.raises(ModelError, match=r"turned\.safetensors: W, or a block on its diagonal"):
        load_model(path)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_hints_that_are_not_finite_are_not_written(bad: float, tmp_path: Path) -> None:
    network = held(Dense(drawn(3, 3)), Dense(drawn(3, 2)))
    network = dataclasses.replace(network, eta=torch.tensor([1.0, bad, 1.0]).double())
    save_model(tmp_path / "m.safetensors", network)
    again = load_model(tmp_path / "m.safetensors")
    assert again.eta is None
    assert again.digest == network.digest


def test_activations_have_names() -> None:
    assert ImplicitNetwork(2, 3, 2, activation="tanh").activation == Tanh()
    with pytest.raises(ModelError, match="unknown activation 'tahn'"):
        ImplicitNetwork(2, 3, 2, activation="tahn")
    with pytest.raises(ModelError, match="must be a name or an Activation"):
        ImplicitNetwork(2, 3, 2, activation=3)  # pyright: ignore[reportArgumentType]
