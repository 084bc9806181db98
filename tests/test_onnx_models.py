"""ONNX files: the network that is read computes what the graph does, exactly, or is refused."""

from __future__ import annotations

import contextlib
import gzip
import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.errors import InputError, ModelError
from equicert.exact_outputs import ExactOutputs
from equicert.layers import exact_product
from equicert.onnx_models import OnnxNetwork, load_onnx
from equicert.queries import Query
from onnx_files import constants, evaluate, model, node, write

drawn = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def outputs(read: OnnxNetwork, x: list[Fraction]) -> list[Fraction]:
    """The file's outputs, through the implicit network, exactly."""
    exact = ExactOutputs.of(read.network)
    assert exact is not None
    return [v / read.scale for v in exact(x)]


def points(r: int, count: int = 4) -> list[list[Fraction]]:
    drawn = random.Random(r)
    signed = [[Fraction(drawn.randint(-20, 20), 7) for _ in range(r)] for _ in range(count)]
    return [*signed, [Fraction(0)] * r]


def check(folder: Path, made: onnx.ModelProto, r: int) -> OnnxNetwork:
    """Exact agreement at points, and a proved fixed point near the exact one."""
    read = load_onnx(write(folder, made))
    assert read.network.inputs == r
    for x in points(r):
        assert outputs(read, x) == evaluate(made, x)
    x = points(r, 1)[0]
    y = read.network.predict(torch.tensor([[float(v) for v in x]]))[0]
    near = [v * read.scale for v in evaluate(made, [Fraction(float(v)) for v in x])]
    np.testing.assert_allclose(y.numpy(), np.array(near, dtype=float), rtol=1e-9, atol=1e-9)
    return read


A = constants(
    W=weights(3, 4), V=weights(4, 2), b=weights(4), c=weights(2), T=weights(4, 3), S=weights(2, 4)
)
DENSE = [node("Gemm", "x W b", "h"), node("Relu", "h", "z"), node("Gemm", "z V c", "y")]
BEHIND = [node("Relu", "h", "z"), node("MatMul", "z V", "y")]
FIRST: dict[str, Any] = {  # nodes before "z", the shape of x, constants of their own
    "gemm": ([node("Gemm", "x W b", "h")], [1, 3], {}),
    "gemm, no bias": ([node("Gemm", "x W", "h")], [1, 3], {}),
    "gemm, transposed": ([node("Gemm", "x T b", "h", transB=1)], [1, 3], {}),
    "gemm, column": ([node("Gemm", "x W b", "h", transA=1)], [3, 1], {}),
    "gemm, alpha and beta": ([node("Gemm", "x W b", "h", alpha=0.1, beta=-0.3)], [1, 3], {}),
    "gemm, scalar bias": ([node("Gemm", "x W s", "h")], [1, 3], {"s": 0.3}),
    "gemm, bias row": ([node("Gemm", "x W s", "h")], [1, 3], {"s": [[0.3, 1, -2, 0.1]]}),
    "matmul": ([node("MatMul", "x W", "h")], [1, 3], {}),
    "matmul of a vector": ([node("MatMul", "x W", "h")], [3], {}),
    "matmul, left": ([node("MatMul", "T x", "g"), node("Flatten", "g", "h", axis=0)], [3, 1], {}),
    "matmul, left of a vector": ([node("MatMul", "T x", "h")], [3], {}),
    "matmul of a stack": (
        [node("MatMul", "x W", "g"), node("Flatten", "g", "h")],
        [1, 1, 3],
        {},
    ),
    "add behind": ([node("MatMul", "x W", "m"), node("Add", "m b", "h")], [1, 3], {}),
    "add before": ([node("MatMul", "x W", "m"), node("Add", "b m", "h")], [1, 3], {}),
    "sub behind": ([node("MatMul", "x W", "m"), node("Sub", "m b", "h")], [1, 3], {}),
    "sub before": ([node("MatMul", "x W", "m"), node("Sub", "b m", "h")], [1, 3], {}),
    "rows scaled": ([node("MatMul", "x W", "m"), node("Mul", "m b", "h")], [1, 3], {}),
    "mean and deviation": (
        [node("Sub", "x m", "u"), node("Div", "u d", "v"), node("Gemm", "v W b", "h")],
        [1, 3],
        {"m": 0.1307, "d": 0.3081},
    ),
    "means and powers of two": (
        [node("Sub", "x m", "u"), node("Div", "u d", "v"), node("Gemm", "v W b", "h")],
        [1, 3],
        {"m": [0.1, 0.2, -0.3], "d": [0.5, -4, 2]},
    ),
    "negative division": ([node("Div", "x d", "v"), node("Gemm", "v W b", "h")], [1, 3], {"d": -3}),
    "scaled and shifted": (
        [node("Mul", "m x", "u"), node("Add", "d u", "v"), node("Gemm", "v W b", "h")],
        [1, 3],
        {"m": [0.1, 1.7, -0.3], "d": [1e-6, 3, 2e5]},
    ),
    "two factors": (
        [node("Mul", "x m", "u"), node("Mul", "u d", "v"), node("Gemm", "v W b", "h")],
        [1, 3],
        {"m": [0.1, 1.7, -0.3], "d": [0.7, 3, 2e5]},
    ),
    "three factors": (
        [
            node("Mul", "x m", "u"),
            node("Mul", "u m", "u2"),
            node("Mul", "u2 d", "v"),
            node("Gemm", "v W b", "h"),
        ],
        [1, 3],
        {"m": [0.1, 1.7, -0.3], "d": [0.7, 3, 2e5]},
    ),
    "reflected": ([node("Sub", "m x", "u"), node("Gemm", "u W b", "h")], [1, 3], {"m": 0.7}),
    "two linear layers": (
        [node("MatMul", "x W", "m"), node("MatMul", "m Q", "p"), node("Add", "p b", "h")],
        [1, 3],
        {"Q": weights(4, 4)},
    ),
    "relu of the input": ([node("Relu", "x", "u"), node("Gemm", "u W b", "h")], [1, 3], {}),
    "scaled between": (
        [
            node("Div", "x d", "u"),
            node("Gemm", "u W b", "m"),
            node("Relu", "m", "n"),
            node("Mul", "n b", "h"),
        ],
        [1, 3],
        {"d": 255},
    ),
    "image": ([node("Flatten", "x", "f"), node("Gemm", "f W b", "h")], [1, 1, 3, 1], {}),
    "flatten at 2": (
        [node("Flatten", "x", "f", axis=2), node("Gemm", "f W b", "h")],
        [1, 1, 3],
        {},
    ),
    "flatten at -1": ([node("Flatten", "x", "f", axis=-1), node("Gemm", "f W b", "h")], [1, 3], {}),
    "open batch": ([node("Gemm", "x W b", "h")], ["N", 3], {}),
    "unset batch": ([node("Gemm", "x W b", "h")], [None, 3], {}),
    "batch of 0": ([node("Gemm", "x W b", "h")], [0, 3], {}),
    "reshape": (
        [node("Reshape", "x s", "f"), node("Gemm", "f W b", "h")],
        [1, 1, 3],
        {"s": np.array([0, -1])},
    ),
    "squeeze all": (
        [node("Squeeze", "x", "f"), node("MatMul", "f W", "h")],
        [1, 3, 1],
        {},
    ),
    "squeeze and unsqueeze": (
        [
            node("Squeeze", "x a", "g"),
            node("Unsqueeze", "g e", "f"),
            node("MatMul", "f W", "h"),
        ],
        [1, 3, 1],
        {"a": np.array([0, 2]), "e": np.array([0])},
    ),
    "transposed": ([node("Transpose", "x", "f"), node("MatMul", "f W", "h")], [3, 1], {}),
    "permuted": (
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "t", perm=[0, 2, 1]),
            node("Flatten", "t", "f"),
            node("Gemm", "f Q b", "h"),
        ],
        [1, 6],
        {"s": np.array([1, 2, 3]), "Q": weights(6, 4)},
    ),
    "shifted, then permuted": (
        [
            node("Sub", "x m", "u"),
            node("Mul", "u m", "n"),
            node("Transpose", "n", "t", perm=[0, 2, 1]),
            node("Flatten", "t", "f"),
            node("Gemm", "f Q b", "h"),
        ],
        [1, 2, 3],
        {"m": weights(2, 3), "Q": weights(6, 4)},
    ),
    "transposed weights": (
        [node("Transpose", "T", "t", perm=[1, 0]), node("MatMul", "x t", "h")],
        [1, 3],
        {},
    ),
    "identity and dropout": (
        [node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Gemm", "d W b", "h")],
        [1, 3],
        {},
    ),
    "dropout, not training": (
        [node("Dropout", "x r t", "d"), node("Gemm", "d W b", "h")],
        [1, 3],
        {"r": 0.5, "t": np.array(False)},
    ),
    "constant nodes": (
        [
            helper.make_node("Constant", [], ["k"], value_float=0.3),
            helper.make_node("Constant", [], ["s"], value_ints=[1, 3]),
            helper.make_node("Constant", [], ["l"], value=numpy_helper.from_array(weights(3))),
            node("Reshape", "x s", "f"),
            node("Sub", "f k", "u"),
            node("Add", "u l", "v"),
            node("Gemm", "v W b", "h"),
        ],
        [3],
        {},
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_network_is_the_graph(name: str, tmp_path: Path) -> None:
    nodes, shape, own = FIRST[name]
    made = model([*nodes, *BEHIND], shape, A | constants(**own))
    check(tmp_path, made, 6 if "permuted" in name else 3)


@pytest.mark.parametrize(
    "last",
    [
        [node("Gemm", "z V c", "y")],
        [node("MatMul", "z V", "m"), node("Add", "m c", "y")],
        [node("MatMul", "z V", "m"), node("Relu", "m", "y")],
        [node("Relu", "z", "y")],
        [node("Identity", "z", "y")],
        [node("MatMul", "z V", "m"), node("Div", "m c", "o"), node("Reshape", "o s", "y")],
        [node("MatMul", "z V", "m"), node("Mul", "m k", "n"), node("Add", "n c", "y")],
        [node("MatMul", "z V", "m"), node("Div", "m k", "n"), node("Sub", "c n", "y")],
    ],
    ids=lambda nodes: " ".join(n.op_type for n in nodes),
)
def test_last_layers(last: list[onnx.NodeProto], tmp_path: Path) -> None:
    arrays = A | constants(k=np.float32(0.3), c=[0.25, -8.0]) | {"s": np.array([-1])}
    check(tmp_path, model([*DENSE[:2], *last], [1, 3], arrays), 3)


def test_network_without_a_hidden_layer(tmp_path: Path) -> None:
    check(tmp_path, model([node("Gemm", "x W b", "y")], [1, 3], A), 3)


def test_network_that_is_the_input(tmp_path: Path) -> None:
    check(tmp_path, model([node("Identity", "x", "y")], [1, 3]), 3)


def test_uniform_division_leaves_the_weights_alone(tmp_path: Path) -> None:
    nodes, shape, own = FIRST["mean and deviation"]
    read = check(tmp_path, model([*nodes, *BEHIND], shape, A | constants(**own)), 3)
    assert read.scale == Fraction(float(np.float32(0.3081)))
    stored = {float(v) for v in A["W"].ravel()}
    assert stored <= set(read.network.U.dense().ravel().tolist())


def test_biases_of_many_digits_are_sums(tmp_path: Path) -> None:
    """A mean of 1e-30 below a bias of 1e10 needs more digits than one float64 has."""
    nodes = [node("Sub", "x m", "u"), node("Gemm", "u W b", "h")]
    arrays = A | {"m": np.full(3, 1e-30), "W": np.ones((3, 4)), "b": np.full(4, 1e10)}
    arrays |= {"V": A["V"].astype(float)}
    read = check(tmp_path, model([*nodes, *BEHIND], [1, 3], arrays, kind=TensorProto.DOUBLE), 3)
    assert read.network.states > 4


@drawn
@given(st.data())
def test_any_chain_of_layers_is_read_exactly(tmp_path: Path, data: st.DataObject) -> None:
    """Depths, widths and normalisations drawn; float64 weights, whose products seldom fit."""
    numbers = st.floats(-4, 4).map(lambda v: v if abs(v) > 1e-3 else 0.0)
    r = size = data.draw(st.integers(1, 3))
    nodes, arrays, last = [], {}, "x"
    for k in range(data.draw(st.integers(1, 6))):
        op = data.draw(st.sampled_from(["Gemm", "Relu", "Sub", "Add", "Mul", "Div", "Sub from"]))
        out, inputs, settings_ = f"t{k}", last, {}
        if op == "Gemm":
            width = data.draw(st.integers(1, 3))
            arrays[f"w{k}"] = data.draw(hnp.arrays(np.float64, (width, size), elements=numbers))
            inputs, settings_, size = f"{last} w{k}", {"transB": 1}, width
        elif op != "Relu":
            one = op == "Div" or data.draw(st.booleans())
            elements = numbers.filter(bool) if op == "Div" else numbers
            arrays[f"w{k}"] = data.draw(
                hnp.arrays(np.float64, (1,) if one else (size,), elements=elements)
            )
            inputs = f"w{k} {last}" if op == "Sub from" else f"{last} w{k}"
        nodes.append(node(op.split()[0], inputs, out, **settings_))
        last = out
    made = model(nodes, [1, r], arrays, kind=TensorProto.DOUBLE, output=last)
    read = load_onnx(write(tmp_path, made))
    for x in points(r):
        assert outputs(read, x) == evaluate(made, x)


@given(st.floats(), st.floats())
def test_products_are_exact_or_refused(a: float, b: float) -> None:
    product = exact_product(np.array([a]), np.array([b]))
    if product is not None:
        assert Fraction(product[0]) == Fraction(a) * Fraction(b)


def test_products_that_fit_are_found() -> None:
    a = RNG.normal(size=1000).astype(np.float32).astype(float)
    assert exact_product(a, a[::-1]) is not None
    assert exact_product(a + 2.0**-40, a[::-1]) is None
    assert exact_product(a + 2.0**-40, np.full(1000, -0.0)) is not None


def test_box_bounds_are_those_of_layer_by_layer_propagation(tmp_path: Path) -> None:
    """In as many sweeps as layers, the embedded network is interval bound propagation."""
    sizes = [3, 5, 4, 6, 2]
    arrays = {f"W{k}": weights(*pair) for k, pair in enumerate(pairwise(sizes))}
    arrays |= {f"b{k}": weights(size) for k, size in enumerate(sizes[1:])}
    nodes, last = [], "x"
    for k in range(4):
        nodes.append(node("Gemm", f"{last} W{k} b{k}", f"h{k}"))
        if k < 3:
            nodes.append(node("Relu", f"h{k}", f"z{k}"))
        last = f"z{k}"
    network = load_onnx(write(tmp_path, model(nodes, [1, 3], arrays, output="h3"))).network
    assert network.contraction.depth == 3
    lo, hi = np.array([-1.0, 0.25, 0.5]), np.array([-0.5, 0.5, 1.5])
    box = Box(torch.from_numpy(lo), torch.from_numpy(hi))
    state = Interval().state_box(network, box)
    assert bool(state.proved.all())
    for k in range(3):
        W, b = arrays[f"W{k}"].astype(float), arrays[f"b{k}"].astype(float)
        middle, radius = (lo + hi) / 2 @ W + b, (hi - lo) / 2 @ np.abs(W)
        lo, hi = np.maximum(middle - radius, 0), np.maximum(middle + radius, 0)
    np.testing.assert_allclose(state.lo[0, -6:].numpy(), lo, atol=1e-10)
    np.testing.assert_allclose(state.hi[0, -6:].numpy(), hi, atol=1e-10)
    answer = Interval().answer(network, Query.of_outputs(box, 2))
    assert bool(answer.lower.isfinite().all())


BAD: dict[str, tuple[Any, str]] = {  # nodes, or a model; what the message says
    "convolution": ([node("Conv", "x W", "y")], r"node 0 \(Conv\): this operator is not read"),
    "soft maximum": ([*DENSE[:2], node("Softmax", "z", "y")], r"node 2 \(Softmax\)"),
    "misspelt": ([node("Reluu", "x", "y")], "did you mean 'Relu'"),
    "other domain": ([node("Relu", "x", "y", domain="mine")], "of the domain 'mine'"),
    "power of the input": ([node("Mul", "x x", "y")], "combines two tensors"),
    "residual": ([node("Relu", "x", "z"), node("Add", "x z", "y")], "combines two tensors"),
    "division by the input": ([node("Div", "b x", "y")], "not linear"),
    "division by 0": ([node("Div", "x o", "y")], "divides by 0"),
    "division by thirds": ([node("Div", "x d", "y")], "different numbers whose inverses"),
    "constants only": ([node("Add", "b b", "y")], "constants only"),
    "constant output": ([node("Identity", "b", "y")], "not computed from the input"),
    "no output": ([node("Relu", "x", "z")], "not computed from the input"),
    "unknown input": ([node("Relu", "q", "y")], "'q' is computed nowhere before"),
    "unknown attribute": ([node("Relu", "x", "y", alpha=1.0)], "attribute 'alpha' is not read"),
    "too many inputs": ([node("Relu", "x b", "y")], "has 2 inputs"),
    "shapes": ([node("Gemm", "x V", "y")], "multiplies 3 entries by a matrix of shape"),
    "shapes of a product": ([node("MatMul", "x V", "y")], r"node 0 \(MatMul\): "),
    "outer product": ([node("Transpose", "x", "t"), node("MatMul", "t b", "y")], r"\(MatMul\)"),
    "repeated": ([node("Transpose", "x", "t"), node("Add", "t b", "y")], "would repeat"),
    "two matrices": ([node("MatMul", "x M", "y")], "several matrices"),
    "bad shape": ([node("Reshape", "x s", "y")], r"node 0 \(Reshape\): cannot reshape"),
    "shape of floats": ([node("Reshape", "x b", "y")], "whole numbers"),
    "kept dimension": ([node("Reshape", "x k", "y")], "keeps a dimension"),
    "flatten beyond": ([node("Flatten", "x", "y", axis=3)], "its axis 3"),
    "unsqueeze nowhere": ([node("Unsqueeze", "x", "y")], "has no axes"),
    "training": ([node("Dropout", "x r t", "y")], "random in training mode"),
    "computed weights": ([node("Relu", "x", "z"), node("Gemm", "x z", "y")], "must be a constant"),
    "gemm of a stack": (
        [node("Unsqueeze", "x u", "z"), node("Gemm", "z W", "y")],
        "takes matrices",
    ),
    "alpha": ([node("Gemm", "x D", "y", alpha=0.1)], "does not hold alpha"),
    "whole weights": ([node("Gemm", "x I", "y")], "must be float32 or float64"),
    "NaN": ([node("Gemm", "x N", "y")], "NaN or infinite"),
    "half": ([node("Gemm", "x H", "y")], "must be float32|FLOAT16"),
    "odd constant": ([helper.make_node("Constant", [], ["y"], value_string="a")], "not read"),
}
WRONG = A | constants(o=0, d=[3, 5, 7], s=np.array([5]), k=np.array([1, 3, 0]), M=weights(2, 3, 1))
WRONG |= constants(r=0.5, t=np.array(True), u=np.array([0]), I=np.eye(3, dtype=np.int64))
WRONG |= {"N": np.full((3, 2), np.nan, np.float32), "D": RNG.normal(size=(3, 2))}


@pytest.mark.parametrize("name", BAD)
def test_bad_graphs_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    nodes, said = BAD[name]
    arrays = WRONG | ({"H": np.ones((3, 2), np.float16)} if name == "half" else {})
    path = write(tmp_path, model(nodes, [1, 3], arrays))
    with pytest.raises(ModelError, match=said) as error:
        load_onnx(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def changed(change: Any) -> onnx.ModelProto:
    made = model(DENSE, [1, 3], A)
    change(made)
    return made


def _two_inputs(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [1, 3]))


def _two_outputs(made: onnx.ModelProto) -> None:
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))


def _external(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _short_data(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].raw_data = b"1234"


def _no_output_name(made: onnx.ModelProto) -> None:
    del made.graph.node[0].output[:]


def _branch(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.append(helper.make_attribute("g", made.graph))


def _sparse(made: onnx.ModelProto) -> None:
    made.graph.sparse_initializer.add()


def _wrong_attribute(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.append(helper.make_attribute("alpha", "much"))


def _unknown_type(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].data_type = 999


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (changed(_two_inputs), "2 inputs and 1 outputs"),
        (changed(_two_outputs), "1 inputs and 2 outputs"),
        (changed(_external), "lies in another file"),
        (changed(_short_data), "no readable ONNX model"),
        (changed(_no_output_name), "no readable ONNX model"),
        (changed(_branch), "graphs within graphs"),
        (changed(_sparse), "sparse"),
        (changed(_wrong_attribute), "Gemm|no readable"),
        (changed(_unknown_type), "no readable ONNX model"),
        (model(DENSE, [1, 3], A, version=6), "version 7 or later"),
        (model(DENSE, [1, 3], A, kind=TensorProto.INT64), "is INT64"),
        (model(DENSE, [1, 3], A, kind=TensorProto.FLOAT16), "is FLOAT16"),
        (model(DENSE, [1, "n"], A), "no fixed shape"),
        (model(DENSE, [], A), "no fixed shape"),
        (model(DENSE, [2, 3], A), "2 rows at once"),
        (model(DENSE, ["N", 2**40], A), "at most"),
        (model([node("Relu", "x", "y")], [1, 2**20], A), "too large"),
    ],
    ids=str,
)
def test_bad_models_are_refused_in_one_line(
    made: onnx.ModelProto, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, made)
    with pytest.raises(ModelError, match=said) as error:
        load_onnx(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_wide_networks_are_refused_before_their_weights_fill_memory(tmp_path: Path) -> None:
    arrays = constants(u=np.zeros((1, 20_000), np.float32), c=np.zeros((20_000, 1), np.float32))
    nodes = [node("Gemm", "x u", "h"), node("Relu", "h", "z"), node("Gemm", "z c", "y")]
    with pytest.raises(ModelError, match="20000 states"):
        load_onnx(write(tmp_path, model(nodes, [1, 1], arrays)))


def test_biases_beyond_float64_are_refused(tmp_path: Path) -> None:
    arrays = {"a": np.full(3, 1e200), "m": np.full(3, 1e200), "W": np.ones((3, 1))}
    nodes = [node("Div", "x a", "u"), node("Add", "u m", "v"), node("MatMul", "v W", "y")]
    made = model(nodes, [1, 3], arrays, kind=TensorProto.DOUBLE)
    with pytest.raises(ModelError, match="beyond the largest"):
        load_onnx(write(tmp_path, made))
    arrays |= {"a": np.full(3, 1e-200), "m": np.full(3, 1.1e-200)}
    made = model(nodes, [1, 3], arrays, kind=TensorProto.DOUBLE)
    with pytest.raises(ModelError, match="below the smallest"):
        load_onnx(write(tmp_path, made))


def test_gzip_is_read_as_what_is_in_it(tmp_path: Path) -> None:
    made = model(DENSE, [1, 3], A)
    plain, packed = write(tmp_path, made), write(tmp_path, made, "packed.onnx.gz")
    assert load_onnx(plain).network.digest == load_onnx(packed).network.digest
    assert load_onnx(tmp_path / "packed.onnx").network.digest == load_onnx(plain).network.digest


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("a.onnx", b"no protobuf at all", "no readable ONNX|version 7"),
        ("a.onnx", b"", "version 7"),
        ("a.onnx.gz", b"not compressed", "cannot be read"),
        ("a.onnx.gz", gzip.compress(b"cut off" * 99, mtime=0)[:-9], "cannot be read"),
        (None, b"", "does not exist"),
        ("a.onnx/", b"", "is a folder"),
    ],
)
def test_unreadable_files(name: str | None, contents: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / (name or "nothing.onnx")
    if name == "a.onnx/":
        path.mkdir()
    elif name:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=said) as error:
        load_onnx(path)
    assert str(path) in str(error.value)


@drawn
@given(st.integers(0, 10**9), st.integers(0, 255))
def test_damaged_files_are_read_or_refused(tmp_path: Path, place: int, byte: int) -> None:
    contents = bytearray(model(DENSE, [1, 3], A).SerializeToString())
    contents[place % len(contents)] = byte
    path = tmp_path / "net.onnx"
    path.write_bytes(contents)
    with contextlib.suppress(InputError):  # and nothing else
        load_onnx(path)


@pytest.mark.parametrize("name", ["mnist-net_256x2", "mnist-net_256x4"])
def test_outside_networks(name: str, problems_dir: Path) -> None:
    path = problems_dir / "vnncomp" / "mnist_fc" / f"{name}.onnx.gz"
    made = onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
    read = load_onnx(path)
    arrays = {t.name: numpy_helper.to_array(t).astype(float) for t in made.graph.initializer}
    layers = sorted({key.rpartition(".")[0] for key in arrays})
    x = np.random.default_rng(1).uniform(size=784)
    y = x
    for layer in layers:
        y = arrays[f"{layer}.weight"] @ y + arrays[f"{layer}.bias"]
        y = np.maximum(y, 0) if layer != layers[-1] else y
    exact = [float(v) for v in outputs(read, [Fraction(v) for v in x])]
    np.testing.assert_allclose(exact, y, atol=1e-12)
    assert read.network.contraction.depth == len(layers) - 1
