"""The stored network: weights kept exactly, checked once, named by a digest, never changed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import exact
from equicert.activations import Identity, LeakyReLU, ReLU, Tanh
from equicert.errors import InputError, ModelError, NotContractingError, NotConvergedError
from equicert.operators import Dense
from equicert.solvers import Average
from equicert.stored import StoredNetwork
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, Array, Network

Arrays = dict[str, Any]
TABLE = pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)


def arrays(dtype: type[np.floating[Any]] = np.float64) -> Arrays:
    """n = 2, r = 3, q = 4, in numbers that float32 holds."""
    rng = np.random.default_rng(5)
    shapes = {"W": (2, 2), "U": (2, 3), "b": (2,), "C": (4, 2), "c": (4,)}
    drawn = {name: rng.integers(-64, 65, shape) / 128 for name, shape in shapes.items()}
    return {name: array.astype(dtype) for name, array in drawn.items()}


def build(**changes: Any) -> StoredNetwork:
    return StoredNetwork.from_arrays(**{**arrays(), **changes})


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation, net.eta)


# What is kept.


def test_shapes_and_sizes() -> None:
    network = build()
    assert (network.states, network.inputs, network.outputs) == (2, 3, 4)
    assert network.activation == ReLU()
    assert network.eta is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_every_entry_is_kept_exactly(dtype: type[np.floating[Any]], as_tensors: bool) -> None:
    rng = np.random.default_rng(0)
    given: Arrays = {name: (array + rng.random()).astype(dtype) for name, array in arrays().items()}
    given["W"][0, 1] = dtype(1e-40) if dtype is np.float32 else dtype(5e-324)
    eta = np.array([1 / 3, 7.0]).astype(dtype)
    passed: Arrays = given
    if as_tensors:
        passed = {name: torch.tensor(array) for name, array in given.items()}
    network = StoredNetwork.from_arrays(**passed, eta=torch.tensor(eta) if as_tensors else eta)
    kept = {
        "W": network.W.dense(),
        "U": network.U.dense(),
        "b": network.b,
        "C": network.C,
        "c": network.c,
    }
    for name, tensor in kept.items():
        assert tensor.dtype == torch.float64
        assert exact.to_fractions(tensor) == exact.to_fractions(given[name])
    assert network.eta is not None
    assert exact.to_fractions(network.eta) == exact.to_fractions(eta)


def test_nested_lists_are_arrays() -> None:
    network = StoredNetwork.from_arrays([[0.5]], [[1.0, 2.0]], [0.0], [[1.0]], [0.25], "tanh")
    assert (network.states, network.inputs, network.outputs) == (1, 2, 1)
    assert network.activation == Tanh()


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1][::-1],
        lambda a: np.flip(np.flip(a).copy()),
        lambda a: a.astype(">f8"),
    ],
    ids=["Fortran order", "stride of two", "flipped twice", "negative stride", "big endian"],
)
def test_the_layout_in_memory_is_nothing(view: Callable[[Array], Array]) -> None:
    assert build(**{name: view(array) for name, array in arrays().items()}).digest == build().digest


def test_read_only_arrays_will_do() -> None:
    """Memory-mapped files are such arrays."""
    frozen = arrays()
    for array in frozen.values():
        array.setflags(write=False)
    assert StoredNetwork.from_arrays(**frozen).digest == build().digest


@pytest.mark.parametrize("as_tensors", [False, True])
def test_frozen_against_its_maker(as_tensors: bool) -> None:
    """A proof belongs to the weights that it was made for: nobody else may hold them."""
    given: Arrays = {**arrays(), "eta": np.ones(2)}
    if as_tensors:
        given = {name: torch.tensor(array) for name, array in given.items()}
    network = StoredNetwork.from_arrays(**given)
    digest, W = network.digest, network.W.dense().clone()
    for array in given.values():
        array[:] = 7.0
    assert torch.equal(network.W.dense(), W)
    assert dataclasses.replace(network).digest == digest
    assert network.eta is not None
    assert torch.equal(network.eta, torch.ones(2))


def test_frozen_against_assignment() -> None:
    network = build()
    for name in ("W", "U", "b", "C", "c", "activation", "eta", "digest", "anything"):
        with pytest.raises(AttributeError):
            setattr(network, name, None)
        with pytest.raises(AttributeError):
            delattr(network, name)


def test_parameters_come_without_their_history() -> None:
    grown: Arrays = {
        name: torch.tensor(array, requires_grad=True) for name, array in arrays().items()
    }
    network = StoredNetwork.from_arrays(**grown)
    assert not network.predict(torch.zeros(1, 3)).requires_grad
    assert network.digest == build().digest


# What is refused.


def with_entry(name: str, value: float) -> Arrays:
    array = arrays()[name]
    array[(0,) * (array.ndim - 1) + (1,)] = value
    return {name: array}


BAD: dict[str, tuple[Arrays, str]] = {
    "W not square": ({"W": np.zeros((2, 3))}, "W"),
    "W of another size": ({"W": np.zeros((3, 3))}, ""),
    "W a vector": ({"W": np.zeros(2)}, "W"),
    "W of three dimensions": ({"W": np.zeros((1, 2, 2))}, "W"),
    "U transposed": ({"U": np.zeros((3, 2))}, "U"),
    "U a vector": ({"U": np.zeros(2)}, "U"),
    "b a column": ({"b": np.zeros((2, 1))}, "b"),
    "b too long": ({"b": np.zeros(3)}, "b"),
    "b a number": ({"b": np.float64(0)}, "b"),
    "C transposed": ({"C": np.zeros((2, 4))}, "C"),
    "c too short": ({"c": np.zeros(3)}, "c"),
    "c a row": ({"c": np.zeros((1, 4))}, "c"),
    "eta too long": ({"eta": np.ones(3)}, "eta"),
    "eta a column": ({"eta": np.ones((2, 1))}, "eta"),
    "eta a number": ({"eta": 1.0}, "eta"),
    "no states": (
        {"W": np.zeros((0, 0)), "U": np.zeros((0, 3)), "b": np.zeros(0), "C": np.zeros((4, 0))},
        "n=0",
    ),
    "no inputs": ({"U": np.zeros((2, 0))}, "r=0"),
    "no outputs": ({"C": np.zeros((0, 2)), "c": np.zeros(0)}, "q=0"),
    "W of integers": ({"W": np.zeros((2, 2), dtype=np.int64)}, "W"),
    "W a list of integers": ({"W": [[0, 0], [0, 0]]}, "W"),
    "U complex": ({"U": np.zeros((2, 3), dtype=np.complex128)}, "U"),
    "b of half precision": ({"b": np.zeros(2, dtype=np.float16)}, "b"),
    "C of truths": ({"C": np.zeros((4, 2), dtype=np.bool_)}, "C"),
    "c of bfloat16": ({"c": torch.zeros(4, dtype=torch.bfloat16)}, "c"),
    "eta of integers": ({"eta": np.ones(2, dtype=np.int64)}, "eta"),
    "W of long doubles": ({"W": np.zeros((2, 2), dtype=np.longdouble)}, "W"),
    "W of objects": ({"W": np.array([[None, None], [None, None]])}, "W"),
    "W of strings": ({"W": np.array([["0", "0"], ["0", "0"]])}, "W"),
    "W missing": ({"W": None}, "W"),
    "W ragged": ({"W": [[0.0, 0.0], [0.0]]}, "W"),
    **{
        f"{name} holds {value}": (with_entry(name, value), name)
        for name in ("W", "U", "b", "C", "c")
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    "SiLU": ({"activation": "silu"}, "silu"),
    "GELU": ({"activation": "gelu"}, "gelu"),
    "unknown activation": ({"activation": "relux"}, "relu"),
    "a function": ({"activation": torch.relu}, "activation"),
    "no activation": ({"activation": None}, "activation"),
}


@pytest.mark.parametrize(("changes", "named"), BAD.values(), ids=list(BAD))
def test_refuses(changes: Arrays, named: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(**changes)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_place_of_a_bad_entry_is_named() -> None:
    with pytest.raises(ModelError, match=r"U has a NaN or infinite entry at \(0, 1\)"):
        build(**with_entry("U", float("nan")))


def test_the_constructor_takes_float64_only() -> None:
    good = build()
    with pytest.raises(ModelError, match="b must be float64"):
        dataclasses.replace(good, b=good.b.float())
    with pytest.raises(ModelError, match="W must be float64"):
        dataclasses.replace(good, W=good.W.to(dtype=torch.float32))
    with pytest.raises(ModelError, match="eta"):
        dataclasses.replace(good, eta=torch.ones(2, 1))
    with pytest.raises(ModelError, match="NaN"):
        dataclasses.replace(good, W=Dense(torch.full((2, 2), torch.nan)))


# The digest.


def test_the_digest_is_that_of_the_numbers() -> None:
    digest = build().digest
    assert len(bytes.fromhex(digest)) == 32
    assert StoredNetwork.from_arrays(**arrays(np.float32)).digest == digest
    tensors: Arrays = {name: torch.tensor(array) for name, array in arrays().items()}
    assert StoredNetwork.from_arrays(**tensors).digest == digest
    assert build(eta=np.array([1.0, 2.0])).digest == digest  # a hint, no part of the network
    assert build(activation=ReLU()).digest == digest
    assert build(activation="ReLU").digest == digest
    assert build().to("cpu").digest == digest


@pytest.mark.parametrize("name", ["W", "U", "b", "C", "c"])
def test_one_unit_in_the_last_place_is_another_network(name: str) -> None:
    array = arrays()[name]
    for index in np.ndindex(array.shape):
        changed = array.copy()
        changed[index] = np.nextafter(changed[index], 2.0)
        assert build(**{name: changed}).digest != build().digest


def test_another_order_of_the_same_numbers_is_another_network() -> None:
    given = arrays()
    W, U, C = given["W"], given["U"], given["C"]
    digests = {
        build().digest,
        build(W=W.T).digest,
        build(W=W[::-1].copy()).digest,
        build(U=U[:, ::-1].copy()).digest,
        build(C=C[::-1].copy()).digest,
        build(b=given["b"][::-1].copy()).digest,
        build(U=U.reshape(3, 2).T.copy()).digest,
    }
    assert len(digests) == 7


def test_other_sizes_of_the_same_zeros_are_another_network() -> None:
    zero, W = np.zeros, np.zeros((1, 1))
    one = StoredNetwork.from_arrays(W, zero((1, 2)), zero(1), zero((1, 1)), zero(1))
    other = StoredNetwork.from_arrays(W, zero((1, 1)), zero(1), zero((2, 1)), zero(2))
    third = StoredNetwork.from_arrays(W, zero((1, 3)), zero(1), zero((1, 1)), zero(1))
    assert len({one.digest, other.digest, third.digest}) == 3


def test_the_activation_belongs_to_the_network() -> None:
    near = float(np.nextafter(0.1, 1))
    activations = (ReLU(), Identity(), Tanh(), LeakyReLU(0.1), LeakyReLU(near), "sigmoid")
    assert len({build(activation=phi).digest for phi in activations}) == 6
    assert build(activation="leaky_relu(0.1)").digest == build(activation=LeakyReLU(0.1)).digest


# Proof, state and output.


@TABLE
def test_eta_is_a_hint_and_never_believed(net: Network) -> None:
    """No eta, a false one, a useless one: the proof is found from the weights all the same."""
    n = net.states
    hints = (None, np.full(n, np.nan), np.full(n, -1.0), np.zeros(n), np.geomspace(1, 1e200, n))
    for eta in hints:
        network = StoredNetwork.from_arrays(*net.arrays, net.activation, eta)
        contraction = network.contraction
        assert contraction is network.contraction
        assert exact.contracts(net.W, contraction.eta)
        assert exact.measure(net.W, contraction.eta) <= contraction.mu < 1


@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_no_eta_makes_a_bad_network_contract(net: Network) -> None:
    for eta in (None, np.ones(net.states), np.geomspace(1e-3, 1e3, net.states)):
        network = StoredNetwork.from_arrays(*net.arrays, net.activation, eta)
        with pytest.raises(NotContractingError):
            _ = network.contraction
        if "monotone" in net.name:  # well-posed all the same
            assert bool(network.solve(torch.zeros(1, net.inputs)).converged.all())
            continue
        with pytest.raises(NotContractingError):
            network.solve(torch.zeros(1, net.inputs))


@pytest.mark.parametrize("net", HAIRLINE.values(), ids=str)
def test_a_hairline_is_never_crossed(net: Network) -> None:
    network = stored(net)
    try:
        proved = network.contraction
    except NotContractingError:
        return
    assert net.contracting
    assert exact.contracts(net.W, proved.eta)


@TABLE
def test_predict_is_the_affine_output_of_the_state(net: Network) -> None:
    network = stored(net)
    x = torch.tensor([[0.375] * net.inputs, [1.5] * net.inputs])
    if net.piecewise_linear and "1e30" not in net.name and "near 1" not in net.name:
        y = network.predict(x)
        assert y.shape == (2, net.outputs)
        for row, point in zip(exact.to_fractions(y), x, strict=True):
            z = exact.fixed_point(net.W, net.U, net.b, point, net.activation)
            truth = exact.times(exact.to_fractions(net.C), z)
            offsets = exact.to_fractions(net.c)
            size = 1 + max(abs(e) for e in z) * np.abs(net.C).sum()
            for found, product, offset in zip(row, truth, offsets, strict=True):
                assert abs(float(found - product - offset)) <= 1e-8 * size


def test_predict_of_one_row_and_of_none() -> None:
    network = build(W=np.zeros((2, 2)))
    x = torch.tensor([0.5, -0.25, 1.0])
    assert torch.equal(network.predict(x), network.predict(x[None]))
    assert network.predict(torch.zeros(0, 3)).shape == (0, 4)
    assert torch.equal(network.predict(x.float()), network.predict(x))


def test_predict_raises_rather_than_guess() -> None:
    """The second sample overflows."""
    network = build(W=np.zeros((2, 2)), U=np.full((2, 3), 1e300))
    x = torch.tensor([[0.0, 0.0, 0.0], [1e10, 0.0, 0.0]])
    with pytest.raises(NotConvergedError, match=r"1 of 2 samples .* infinite"):
        network.predict(x)
    assert network.solve(x).converged.tolist() == [True, False]


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 2),
        torch.zeros(2),
        torch.zeros(1, 1, 3),
        torch.zeros(()),
        torch.tensor([[0.0, torch.nan, 0.0]]),
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]]),
        torch.zeros(1, 3, dtype=torch.complex128),
    ],
    ids=["narrow", "short", "three dimensions", "a number", "NaN", "infinite", "complex"],
)
def test_inputs_that_do_not_fit(x: Tensor) -> None:
    network = build(W=np.zeros((2, 2)))
    for method in (network.solve, network.predict):
        with pytest.raises(InputError) as caught:
            method(x)
        assert "\n" not in str(caught.value)


def test_solve_hands_on_what_it_is_asked() -> None:
    network = stored(CONTRACTING["clipped"])
    x = torch.tensor([[-0.25], [-0.125]])
    loose, tight = network.solve(x, 1e-1), network.solve(x, 1e-10)
    assert bool((loose.steps < tight.steps).all())
    assert bool((tight.radius < 1e-9).all())
    assert network.solve(x, 1e-10, 2).steps.tolist() == [2, 2]
    slow = network.solve(x, 1e-10, solver=Average())
    assert not bool((slow.steps == tight.steps).any())
