"""The operators of ONNX graphs that are read, on exact layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from equicert.errors import ModelError
from equicert.layers import Array, Layers, exact_product, rationals

AnyArray = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: its entries row by row, and its shape."""

    layers: Layers
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """An operator's attributes, the inputs that it is given (None: left out), and its outputs."""

    attributes: Mapping[str, Any]
    inputs: tuple[Value | AnyArray | None, ...]
    outputs: int

    def constant(self, k: int) -> AnyArray | None:
        """Input k, which must not depend on the network's; None where it is left out."""
        value = self.inputs[k] if k < len(self.inputs) else None
        if isinstance(value, Value):
            raise ModelError(f"its input {k} must be a constant, and is computed from the input")
        return value

    def value(self, k: int) -> Value:
        """Input k, which must depend on the network's."""
        value = self.inputs[k]
        if not isinstance(value, Value):
            raise ModelError("computes with constants only; fold it into one before")
        return value

    def weights(self, k: int) -> Array:
        """Input k as weights: each entry unchanged."""
        return weights(self.constant(k))

    def given(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


def weights(array: AnyArray | None) -> Array:
    """Constants to compute with, float32 or float64, as float64.

    Raises:
        ModelError: they are of another type, left out, NaN or infinite.
    """
    if array is None or array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        kind = "left out" if array is None else str(array.dtype)
        raise ModelError(f"its constant must be float32 or float64, and is {kind}")
    if not np.isfinite(array).all():
        raise ModelError("its constant has a NaN or infinite entry")
    return array.astype(np.float64)


def _reshaped(to: Callable[[Node, AnyArray], AnyArray], node: Node) -> Value | AnyArray:
    """What moves entries, and does not change them: done to their numbers."""
    value = node.inputs[0]
    if isinstance(value, Value):
        order = to(node, np.arange(value.layers.size).reshape(value.shape))
        return Value(value.layers.ordered(order.ravel()), order.shape)
    if value is None:
        raise ModelError("has no input")
    return to(node, value)


def _same(node: Node, array: AnyArray) -> AnyArray:
    training = node.constant(2)
    if training is not None and bool(training.any()):
        raise ModelError("is random in training mode; export the network for inference")
    return array


def _flat(node: Node, array: AnyArray) -> AnyArray:
    axis = node.given("axis", 1)
    if not -array.ndim <= axis <= array.ndim:
        raise ModelError(f"its axis {axis} is outside of the shape {array.shape}")
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(int(np.prod(array.shape[:axis])), -1)


def _with_shape(node: Node, array: AnyArray) -> AnyArray:
    wanted = _integers(node.constant(1))
    if not node.given("allowzero", 0):
        if any(not size and k >= array.ndim for k, size in enumerate(wanted)):
            raise ModelError(f"the shape {wanted} keeps a dimension that {array.shape} has not")
        wanted = [size or array.shape[k] for k, size in enumerate(wanted)]
    return array.reshape(wanted)


def _squeezed(node: Node, array: AnyArray) -> AnyArray:
    axes = _axes(node)
    return array.squeeze() if axes is None else array.squeeze(tuple(axes))


def _unsqueezed(node: Node, array: AnyArray) -> AnyArray:
    axes = _axes(node)
    if axes is None:
        raise ModelError("has no axes")
    return np.expand_dims(array, tuple(axes))


def _transposed(node: Node, array: AnyArray) -> AnyArray:
    return array.transpose(node.given("perm", None))


def _axes(node: Node) -> list[int] | None:
    """From an attribute, or, since version 13, from an input."""
    given = node.constant(1)
    return node.given("axes", None) if given is None else _integers(given)


def _integers(array: AnyArray | None) -> list[int]:
    if array is None or array.dtype.kind != "i":
        raise ModelError("needs constant whole numbers")
    return [int(v) for v in array.ravel()]


def _constant(node: Node) -> AnyArray:
    match dict(node.attributes):
        case {"value": np.ndarray() as array}:
            return array
        case {"value_float": v} | {"value_floats": v}:
            return np.array(v, dtype=np.float32)
        case {"value_int": v} | {"value_ints": v}:
            return np.array(v, dtype=np.int64)
    raise ModelError("its value is of a kind that is not read")


def _relu(node: Node) -> Value:
    value = node.value(0)
    return Value(value.layers.relu(), value.shape)


def _added(sign: int, node: Node) -> Value:
    """`a + b` or `a - b`, one of them a constant."""
    value, constant, swapped = _operands(node)
    entries, shape = _broadcast(value, constant)
    layers = value.layers.minus() if swapped and sign < 0 else value.layers
    by = sign if not swapped else 1
    return Value(layers.plus([by * v for v in rationals(entries)]), shape)


def _multiplied(node: Node) -> Value:
    value, constant, _ = _operands(node)
    entries, shape = _broadcast(value, constant)
    return Value(value.layers.times(entries), shape)


def _divided(node: Node) -> Value:
    value, constant, swapped = _operands(node)
    if swapped:
        raise ModelError("divides by what is computed from the input, which is not linear")
    entries, shape = _broadcast(value, constant)
    return Value(value.layers.over(entries), shape)


def _operands(node: Node) -> tuple[Value, Array, bool]:
    """The operand that depends on the input, the constant, and whether the constant is first."""
    match node.inputs:
        case (Value(), Value()):
            raise ModelError(
                "combines two tensors that are computed from the input; chains of layers are read"
            )
        case (Value() as value, _):
            return value, node.weights(1), False
    return node.value(1), node.weights(0), True


def _broadcast(value: Value, constant: Array) -> tuple[Array, tuple[int, ...]]:
    """The constant's entry for each of the value's, and the shape of the result."""
    shape = np.broadcast_shapes(value.shape, constant.shape)
    if int(np.prod(shape)) != value.layers.size:
        raise ModelError(
            f"a constant of shape {constant.shape} would repeat a tensor of shape {value.shape}"
        )
    return np.broadcast_to(constant, shape).ravel(), shape


def _matrix_product(node: Node) -> Value:
    """`a b`, one of them a constant, the other one a single row or column."""
    value, M, swapped = _operands(node)
    size = value.layers.size
    shapes = (M.shape, value.shape) if swapped else (value.shape, M.shape)
    shape = np.matmul(*(np.empty(s, dtype=bool) for s in shapes)).shape
    long = value.shape[-2:-1] if swapped and len(value.shape) > 1 else value.shape[-1:]
    if long != (size,):
        raise ModelError(
            f"multiplies a tensor of shape {value.shape}: one sample at a time is read"
        )
    matrix = M.reshape(-1, size) if swapped else _columns(M, size).T
    if matrix.shape[0] != int(np.prod(shape)):
        raise ModelError(f"multiplies by several matrices, of shape {M.shape}")
    return Value(value.layers.mapped(matrix), shape)


def _columns(M: Array, size: int) -> Array:  # (size, m)
    """A constant on the right as a matrix."""
    if M.ndim > 2 and int(np.prod(M.shape[:-2])) != 1:
        raise ModelError(f"multiplies by several matrices, of shape {M.shape}")
    return M.reshape(size, -1)


def _gemm(node: Node) -> Value:
    """`alpha A' B' + beta C`, A' a single row."""
    value = node.value(0)
    if len(value.shape) != 2:
        raise ModelError(f"takes matrices, got a tensor of shape {value.shape}")
    rows, terms = value.shape[::-1] if node.given("transA", 0) else value.shape
    if rows != 1:
        raise ModelError(f"multiplies {rows} rows at once: one sample at a time is read")
    B = node.weights(1)
    B = B if node.given("transB", 0) else B.T  # (m, terms)
    if B.ndim != 2 or B.shape[1] != terms:
        raise ModelError(f"multiplies {terms} entries by a matrix of shape {B.shape[::-1]}")
    M = exact_product(B, float(node.given("alpha", 1.0)))
    if M is None:
        raise ModelError("float64 does not hold alpha times its matrix; multiply it out before")
    layers = value.layers.mapped(M)
    if node.constant(2) is not None:
        c = np.broadcast_to(node.weights(2), (1, len(M)))
        beta = Fraction(float(node.given("beta", 1.0)))
        layers = layers.plus([beta * v for v in rationals(c)])
    return Value(layers, (1, len(M)))


@dataclass(frozen=True)
class Operator:
    """How a node is computed, and what it may have: numbers of inputs, attributes."""

    compute: Callable[[Node], Value | AnyArray]
    least: int
    most: int
    attributes: frozenset[str]


def _operator(
    compute: Callable[[Node], Value | AnyArray], least: int, most: int, attributes: str = ""
) -> Operator:
    return Operator(compute, least, most, frozenset(attributes.split()))


OPERATORS: Final[Mapping[str, Operator]] = {
    "Add": _operator(partial(_added, 1), 2, 2),
    "Constant": _operator(_constant, 0, 0, "value value_float value_floats value_int value_ints"),
    "Div": _operator(_divided, 2, 2),
    "Dropout": _operator(partial(_reshaped, _same), 1, 3, "ratio seed"),
    "Flatten": _operator(partial(_reshaped, _flat), 1, 1, "axis"),
    "Gemm": _operator(_gemm, 2, 3, "alpha beta transA transB"),
    "Identity": _operator(partial(_reshaped, _same), 1, 1),
    "MatMul": _operator(_matrix_product, 2, 2),
    "Mul": _operator(_multiplied, 2, 2),
    "Relu": _operator(_relu, 1, 1),
    "Reshape": _operator(partial(_reshaped, _with_shape), 2, 2, "allowzero"),
    "Squeeze": _operator(partial(_reshaped, _squeezed), 1, 2, "axes"),
    "Sub": _operator(partial(_added, -1), 2, 2),
    "Transpose": _operator(partial(_reshaped, _transposed), 1, 1, "perm"),
    "Unsqueeze": _operator(partial(_reshaped, _unsqueezed), 1, 2, "axes"),
}
