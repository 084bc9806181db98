"""Convolutions against their definition, and networks of them against the same ones of matrices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from torch import Tensor

from convolutions import Stored
from equicert import write_certificates
from equicert.attacks import PGD
from equicert.bounds import Complete, Interval
from equicert.certification import certify
from equicert.checker import check_folder
from equicert.contraction import prove_contraction
from equicert.data import DataSet
from equicert.deployed import deploy
from equicert.errors import ConfigError, InputError, ModelError
from equicert.initialisation import initial_network
from equicert.losses import inclusion_loss
from equicert.models import load_model, save_model
from equicert.network import ImplicitNetwork
from equicert.norms import row_measures
from equicert.operators import Convolution, Dense, Geometry, Image, Margins
from equicert.policies import Raise
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.weights import Convolutional, ConvolutionalInput, Free


def eighths(*shape: int, seed: int) -> Tensor:
    """Entries whose sums and products are exact."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.integers(-16, 17, shape) / 8)


def defined(A: Convolution) -> Tensor:
    """The matrix, entry by entry from the definition."""
    g, own = A.geometry, None if A.own is None else A.own.numpy()
    padding = "circular" if g.circular else "zeros"
    held = Stored(g.image, A.kernel.numpy(), g.margins, padding, g.stride, own)
    return torch.tensor(held.expanded())


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Of all sizes, strides and margins that fit."""
    number = st.integers
    channels, height, width = (draw(number(1, most)) for most in (3, 5, 5))
    circular = draw(st.booleans())
    most = (height, width) if circular else (6, 6)
    margins = Margins(*(draw(number(0, most[k // 2])) for k in range(4)))
    padded = height + margins.top + margins.bottom, width + margins.left + margins.right
    sizes = [min(4, p, m if circular else p) for p, m in zip(padded, most, strict=True)]
    kernel = draw(number(1, 3)), channels, *(draw(number(1, size)) for size in sizes)
    geometry = Geometry(Image(channels, height, width), margins, draw(number(1, 3)), circular)
    return Convolution(eighths(*kernel, seed=draw(number(0, 99))), geometry)


@given(convolutions())
def test_the_matrix_is_that_of_the_definition(A: Convolution) -> None:
    truth = defined(A)
    assert torch.equal(A.dense(), truth)
    assert torch.equal(A.transpose().dense(), truth.mT)
    v, w = eighths(3, A.shape[1], seed=1), eighths(3, A.shape[0], seed=2)
    single = A.to(dtype=torch.float32)  # by the library's own algorithms
    assert torch.allclose(single.apply(v.float()).double(), v @ truth.mT, rtol=0, atol=1e-3)
    found = single.transpose().apply(w.float())
    assert torch.allclose(found.double(), w @ truth, rtol=0, atol=1e-3)


@given(convolutions())
def test_terms_are_no_fewer_than_entries_in_a_row(A: Convolution) -> None:
    full = A.map(torch.ones_like)
    for operator in (full, full.transpose()):
        assert int(operator.dense().sum(1).max()) <= operator.terms


@given(convolutions())
def test_structures_are_read_as_they_are_spelt(A: Convolution) -> None:
    assert Geometry.parse(A.structure) == A.geometry


def square(
    image: Image, k: tuple[int, int], circular: bool, own: bool, seed: int = 0
) -> Convolution:
    geometry = Geometry(image, Margins.same(*k), circular=circular)
    A = Convolution(eighths(image.channels, image.channels, *k, seed=seed), geometry)
    if own:
        return dataclasses.replace(A.off_diagonal(), own=eighths(image.size, seed=seed + 1))
    return A


SHAPES = [
    (Image(2, 4, 3), (3, 3)),
    (Image(1, 5, 4), (2, 2)),
    (Image(2, 2, 3), (1, 3)),
    (Image(3, 4, 4), (4, 2)),
    (Image(4, 1, 1), (1, 1)),
]


@pytest.mark.parametrize(("image", "k"), SHAPES, ids=str)
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_square_ones_have_the_diagonal_of_their_matrix(
    image: Image, k: tuple[int, int], circular: bool, own: bool
) -> None:
    A = square(image, k, circular, own)
    truth = defined(A)
    assert torch.equal(A.dense(), truth)
    assert torch.equal(A.diagonal(), truth.diagonal())
    assert torch.equal(
        A.majorant().dense(), truth.abs().fill_diagonal_(0) + truth.diagonal().diag()
    )


def test_even_kernels_reach_further_below_and_to_the_right() -> None:
    assert Margins.same(3, 2) == Margins(1, 1, 0, 1)
    A = Convolution(torch.ones(1, 1, 1, 2), Geometry(Image(1, 1, 3), Margins.same(1, 2)))
    assert A.apply(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[3.0, 6.0, 4.0]]


BAD: dict[str, tuple[Any, str]] = {
    "larger, circular": (
        lambda: square(Image(1, 2, 2), (3, 3), True, False),
        "larger than the image of 2 x 2",
    ),
    "larger, zeros": (
        lambda: Convolution(torch.ones(1, 1, 5, 5), Geometry(Image(1, 2, 2), Margins(1, 1, 1, 1))),
        "larger than the image of 2 x 2",
    ),
    "channels": (
        lambda: Convolution(torch.ones(1, 2, 1, 1), Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0))),
        "image of 1 channels",
    ),
    "dimensions": (
        lambda: Convolution(torch.ones(1, 1, 1), Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0))),
        "the shape (out, 1, height, width)",
    ),
    "no pixel": (lambda: Geometry(Image(1, 0, 2), Margins(0, 0, 0, 0)), "at least one pixel"),
    "stride": (lambda: Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0), 0), "stride of at least 1"),
    "huge kernel": (
        lambda: Convolutional(Image(10**6, 1, 1), 1),
        "more than 268435456 entries",
    ),
    "margin": (lambda: Geometry(Image(1, 2, 2), Margins(0, -1, 0, 0)), "margins of at least 0"),
    "huge": (lambda: Geometry(Image(1, 2**11 + 1, 2**11), Margins(0, 0, 0, 0)), "more than"),
    "diagonal, stride": (
        lambda: dataclasses.replace(
            Convolution(torch.zeros(1, 1, 1, 1), Geometry(Image(1, 2, 2), Margins(1, 1, 1, 1), 3)),
            own=torch.ones(4),
        ),
        "keeps the shape of the image",
    ),
    "diagonal, size": (
        lambda: dataclasses.replace(
            square(Image(1, 2, 2), (1, 1), False, False).off_diagonal(), own=torch.ones(3)
        ),
        "diagonal of (3,)",
    ),
    "diagonal, tap": (
        lambda: dataclasses.replace(
            square(Image(1, 3, 3), (3, 3), False, False, 3), own=torch.ones(9)
        ),
        "a kernel that is 0 there",
    ),
    "spelling": (lambda: Geometry.parse("convolution 1x2x2 stride 01 zeros 0 0 0 0"), "is no conv"),
    "no diagonal": (
        lambda: Convolution(
            torch.ones(1, 1, 1, 1), Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0), 2)
        ).majorant(),
        "maps images to images of the same shape with stride 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_in_one_line(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(ModelError) as refused:
        make()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


# The parametrisation: (12) with the exact absolute row sum at each position.


def parametrised(
    image: Image, k: int, circular: bool, gamma: float = 0.0, scale: float = 4.0
) -> Convolutional:
    torch.manual_seed(k)
    weight = Convolutional(image, k, gamma, circular, scale).double()
    with torch.no_grad():
        weight.log_eta.copy_(torch.randn(image.channels).double())
    return weight


def measure(weight: Convolutional) -> float:
    W, eta = weight().dense().detach(), weight.eta().detach()
    return float(row_measures(W, eta).max())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, -3.0])
def test_it_contracts_whatever_an_optimiser_does(k: int, circular: bool, gamma: float) -> None:
    weight = parametrised(Image(3, 4, 5), k, circular, gamma)
    optimiser = torch.optim.Adam(weight.parameters(), lr=0.3)
    target = torch.randn(60, 60).double()
    for _ in range(10):
        optimiser.zero_grad()
        (weight().dense() - target).square().sum().backward()
        optimiser.step()
        assert measure(weight) <= gamma + 1e-12
        assert prove_contraction(weight(), weight.eta()).mu <= gamma + 1e-9
    assert weight.T.grad is not None


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("circular", [False, True])
def test_a_shift_without_the_area_of_the_kernel_does_not(k: int, circular: bool) -> None:
    """What published code subtracts, a sum over channels alone, is a fraction of the row sum."""
    weight = parametrised(Image(8, 6, 6), k, circular)
    W = weight().dense().detach()
    T = Convolution(weight.T.detach(), weight.geometry)
    short = T.diagonal() - weight.T.detach().abs().amax((2, 3)).sum(1).repeat_interleave(36)
    assert measure(weight) <= 1e-12
    wrong = W.fill_diagonal_(0) + torch.diag(short)
    assert float(row_measures(wrong, weight.eta().detach()).max()) > 1


def test_the_shift_is_the_row_sum_at_each_position() -> None:
    weight = parametrised(Image(2, 4, 4), 3, False)
    T = Convolution(weight.T.detach(), weight.geometry).dense()
    own = T.diagonal() - T.abs().sum(1)
    assert torch.allclose(weight().diagonal(), own, rtol=0, atol=1e-12)
    corner, middle = own[0], own[5]
    assert corner != middle  # a corner has fewer taps


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Convolutional(Image(1, 2, 2), 3, circular=True), ModelError),
        (lambda: Convolutional(Image(1, 2, 2), 0), ConfigError),
        (lambda: Convolutional(Image(0, 2, 2), 1), ConfigError),
        (lambda: Convolutional(Image(1, 2, 2), 1, gamma=1.0), ConfigError),
    ],
)
def test_bad_parametrisations(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


# Networks: everything is as for the same network of matrices.


def network(circular: bool, k: int = 3, stride: int = 2) -> ImplicitNetwork:
    torch.manual_seed(5)
    margins = Margins.same(3, 3)
    into = ConvolutionalInput((2, 1, 3, 3), Geometry(Image(1, 6, 5), margins, stride, circular))
    weight = Convolutional(into.states, k, circular=circular, scale=3.0)
    made = ImplicitNetwork(
        30, weight.states, 3, weight=weight, input_map=into, tolerance=1e-11, max_steps=500
    )
    return made.double()


NETWORKS = [(False, 3, 2), (True, 3, 2), (False, 2, 1), (True, 2, 3)]
EACH = pytest.mark.parametrize(("circular", "k", "stride"), NETWORKS)


def as_matrices(held: StoredNetwork) -> StoredNetwork:
    return dataclasses.replace(held, W=Dense(held.W.dense()), U=Dense(held.U.dense()))


def batch(seed: int = 0, count: int = 6) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.uniform(size=(count, 30))), torch.tensor(rng.integers(3, size=count))


@EACH
def test_outputs_and_boxes_are_those_of_the_matrices(circular: bool, k: int, stride: int) -> None:
    made = network(circular, k, stride)
    held = made.store()
    plain = as_matrices(held)
    x, _ = batch()
    assert torch.allclose(made(x).detach(), plain.predict(x), rtol=0, atol=1e-8)
    assert torch.allclose(held.predict(x), plain.predict(x), rtol=0, atol=1e-8)
    lo, hi = made.reach(x - 0.1, x + 0.1)
    again = ImplicitNetwork.from_stored(plain, tolerance=1e-11).reach(x - 0.1, x + 0.1)
    assert torch.allclose(lo, again[0], rtol=0, atol=1e-8)
    assert torch.allclose(hi, again[1], rtol=0, atol=1e-8)
    alone = made.reach(x[:1] - 0.1, x[:1] + 0.1)
    assert torch.allclose(alone[0], lo[:1], rtol=0, atol=1e-9)


@EACH
def test_gradients_are_those_of_the_matrices(circular: bool, k: int, stride: int) -> None:
    """By the chain rule from gradients in W and U as matrices, those of the kernels."""
    made = network(circular, k, stride)
    x, labels = batch(1)
    inclusion_loss(made, x, labels, 0.05, 0.5).total.backward()
    W, U = made.weight(), made.input_map.operator(made.U)
    plain = ImplicitNetwork(
        30, len(made.b), 3, weight=Free(W.dense().detach(), made.weight.eta()), tolerance=1e-12
    ).double()
    with torch.no_grad():
        for name, value in (("U", U.dense()), ("b", made.b), ("C", made.C), ("c", made.c)):
            getattr(plain, name).copy_(value)
    inclusion_loss(plain, x, labels, 0.05, 0.5).total.backward()
    assert isinstance(plain.weight, Free)
    assert plain.weight.W.grad is not None
    assert plain.U.grad is not None
    parameters = [made.weight.get_parameter("T"), made.weight.get_parameter("log_eta"), made.U]
    expected = torch.autograd.grad(
        (W.dense() * plain.weight.W.grad).sum() + (U.dense() * plain.U.grad).sum(), parameters
    )
    for parameter, truth in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, truth, rtol=1e-6, atol=1e-9)
    assert torch.allclose(made.b.grad, plain.b.grad, rtol=1e-6, atol=1e-9)  # pyright: ignore[reportArgumentType]


@EACH
@pytest.mark.parametrize("method", [Interval(), Complete(timeout=10.0)], ids=lambda m: m.name)
def test_verdicts_are_those_of_the_matrices_and_true(
    circular: bool, k: int, stride: int, method: Any
) -> None:
    held = network(circular, k, stride).store()
    x, _ = batch(2, 10)
    labels = held.predict(x).argmax(1)
    eps = 0.01 if method.name == "interval" else 0.08
    found = certify(held, x, labels, eps, method=method)
    again = certify(as_matrices(held), x, labels, eps, method=method)
    statuses = [verdict.status for verdict in found]
    assert statuses == [verdict.status for verdict in again]
    assert "certified" in statuses
    rng = np.random.default_rng(3)
    for _ in range(50):
        near = x + eps * torch.tensor(rng.choice([-1.0, 1.0], size=tuple(x.shape)))
        y = held.predict(near).argmax(1)
        for row, status in enumerate(statuses):
            assert status != "certified" or y[row] == labels[row]


@EACH
def test_attacks_find_what_they_find_on_the_matrices(circular: bool, k: int, stride: int) -> None:
    held = network(circular, k, stride).store()
    x, _ = batch(4)
    labels = held.predict(x).argmax(1)
    found = PGD(steps=5).run(held, x, labels, 0.6)
    again = PGD(steps=5).run(as_matrices(held), x, labels, 0.6)
    assert list(found.status) == list(again.status)
    assert "broken" in list(found.status)


@EACH
@pytest.mark.parametrize("method", [Interval(), Complete(timeout=10.0)], ids=lambda m: m.name)
def test_the_checker_finds_their_certificates_valid(
    circular: bool, k: int, stride: int, method: Any, tmp_path: Path
) -> None:
    held = network(circular, k, stride).store()
    x, _ = batch(2, 10)
    labels = held.predict(x).argmax(1)
    eps = 0.01 if method.name == "interval" else 0.08
    found = write_certificates(tmp_path / "proofs", held, x, labels, eps, method=method)
    save_model(tmp_path / "model.safetensors", held)
    report = check_folder(tmp_path / "proofs", tmp_path / "model.safetensors")
    statuses = [line["status"] for line in found.lines]
    assert report.certified == statuses.count("certified") > 0


def test_no_bound_on_the_float32_program_is_claimed() -> None:
    with pytest.raises(ModelError, match="W is a convolution: which algorithm float32 takes"):
        deploy(network(False).store())


def test_files_keep_every_bit(tmp_path: Path) -> None:
    held = network(False).store()
    path = tmp_path / "model.safetensors"
    save_model(path, held)
    again = load_model(path)
    assert again.digest == held.digest != as_matrices(held).digest
    assert (
        again.W.structure == held.W.structure == "convolution 2x3x3 stride 1 zeros 1 1 1 1 diagonal"
    )
    assert again.U.structure == "convolution 1x6x5 stride 2 zeros 1 1 1 1"
    for name, tensor in held.W.tensors().items():
        assert torch.equal(again.W.tensors()[name], tensor)
    assert path.stat().st_size < 4000  # of the kernels, not of matrices


STRUCTURE = "W:convolution 1x2x2 stride 1 zeros 0 0 0 0 diagonal;U:dense"
ARRAYS = {
    "W.kernel": np.zeros((1, 1, 1, 1)),
    "W.diagonal": np.zeros(4),
    "U": np.ones((4, 3)),
    "b": np.zeros(4),
    "C": np.ones((2, 4)),
    "c": np.zeros(2),
}


@pytest.mark.parametrize(
    ("structure", "changes", "message"),
    [
        (STRUCTURE.replace("1x2x2", "1x2x3"), {}, "W: a convolution with a diagonal"),
        (STRUCTURE.replace("stride 1", "stride 0"), {}, "stride of at least 1"),
        (STRUCTURE.replace("U:dense", "U:banded"), {}, "'banded' is no convolution"),
        (STRUCTURE.removesuffix(";U:dense"), {}, "is not known"),
        (STRUCTURE, {"W.kernel": np.ones((1, 1, 1, 1))}, "a kernel that is 0 there"),
        (STRUCTURE, {"W.kernel": np.ones((1, 1, 1))}, "W.kernel must have 4 dimensions"),
        (STRUCTURE, {"W.diagonal": None}, "lacks W.diagonal"),
        (STRUCTURE, {"W": np.ones((4, 4))}, "unknown tensor 'W'"),
        (STRUCTURE, {"U": np.ones((5, 3))}, "U must have shape"),
        ("dense", {}, "unknown tensor 'W."),
    ],
)
def test_bad_files_are_refused(
    structure: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arrays = {key: value for key, value in (ARRAYS | changes).items() if value is not None}
    metadata = {"format": "equicert-1", "structure": structure, "activation": "relu", "digest": "0"}
    path = tmp_path / "m.safetensors"
    path.write_bytes(save(arrays, metadata))
    with pytest.raises(ModelError) as refused:
        load_model(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


# Settings.


def toy(inputs: int = 36) -> DataSet:
    x = np.random.default_rng(0).uniform(size=(8, inputs))
    y = np.arange(8) % 2
    return DataSet("toy", x, y, x, y, (0.0, 1.0))


def test_settings_make_the_network() -> None:
    config = TrainConfig(weights="convolutional", channels=3, input_kernel_size=5, kernel_size=2)
    made = initial_network(toy(), config, Raise())
    assert isinstance(made, ImplicitNetwork)
    assert isinstance(made.weight, Convolutional)
    assert made.weight.geometry.image == Image(3, 3, 3)
    assert tuple(made.U.shape) == (3, 1, 5, 5)
    assert tuple(made.weight.T.shape) == (3, 3, 2, 2)
    coloured = dataclasses.replace(config, image="4x3x3", padding="circular", input_kernel_size=3)
    made = initial_network(toy(), coloured, Raise())
    assert isinstance(made, ImplicitNetwork)
    assert made.input_map.parameter == (3, 4, 3, 3)


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, 35, "image must be channels x height x width with a product of 35"),
        ({"image": "1x6x5"}, 36, "with a product of 36"),
        ({"image": "6x6"}, 36, "got '6x6'"),
        ({"image": "1x6x-6"}, 36, "got '1x6x-6'"),
        ({"padding": "circular", "kernel_size": 4}, 36, "larger than the image of 3 x 3"),
        ({"padding": "circular", "input_kernel_size": 7}, 36, "larger than the image of 6 x 6"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], inputs: int, message: str) -> None:
    config = TrainConfig(weights="convolutional", **settings)
    with pytest.raises(ConfigError) as refused:
        initial_network(toy(inputs), config, Raise())
    assert message in str(refused.value)


def test_settings_of_other_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels belongs to weights 'convolutional'"):
        TrainConfig(channels=3)
    with pytest.raises(ConfigError, match="hidden belongs"):
        TrainConfig(weights="convolutional", hidden=50)


def test_an_input_map_of_another_size_is_refused() -> None:
    into = ConvolutionalInput((1, 1, 1, 1), Geometry(Image(1, 2, 2), Margins(0, 0, 0, 0)))
    with pytest.raises(InputError, match="takes 4 inputs to 4 states"):
        ImplicitNetwork(5, 4, 2, input_map=into)
