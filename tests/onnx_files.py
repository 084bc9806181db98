"""Small ONNX graphs, and their evaluation in exact arithmetic, apart from the code under test."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Exact = NDArray[Any]  # of Fractions


def constants(**arrays: Any) -> dict[str, NDArray[Any]]:
    """Named constants, float32 where no type is given."""
    return {
        k: v if isinstance(v, np.ndarray) else np.array(v, np.float32) for k, v in arrays.items()
    }


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None],
    arrays: Mapping[str, NDArray[Any]] | None = None,
    *,
    version: int = 13,
    kind: int = TensorProto.FLOAT,
    output: str = "y",
) -> onnx.ModelProto:
    """A model with the input "x" and the output "y"."""
    tensors = [numpy_helper.from_array(a, name) for name, a in (arrays or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, kind, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """A node; the names of its inputs are separated by spaces."""
    return helper.make_node(op, inputs.split(), [output], **attributes)


def write(folder: Path, made: onnx.ModelProto, name: str = "net.onnx") -> Path:
    path = folder / name
    contents = made.SerializeToString()
    path.write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    return path


def exact(array: NDArray[Any]) -> Exact:
    """The entries as Fractions; numbers that are none are left alone."""
    if array.dtype.kind != "f":
        return array
    entries = [Fraction(float(v)) for v in array.ravel()]
    made = np.empty(len(entries), dtype=object)
    made[:] = entries
    return made.reshape(array.shape)


def evaluate(made: onnx.ModelProto, x: Sequence[Fraction]) -> list[Fraction]:
    """The outputs of the graph at x, in exact arithmetic, by NumPy on arrays of Fractions."""
    known = {t.name: exact(numpy_helper.to_array(t)) for t in made.graph.initializer}
    [entry] = [value for value in made.graph.input if value.name not in known]
    dims = entry.type.tensor_type.shape.dim
    known[entry.name] = np.array(x, dtype=object).reshape([d.dim_value or 1 for d in dims])
    for entry in made.graph.node:
        given = [known[name] for name in entry.input if name]
        settings = {a.name: helper.get_attribute_value(a) for a in entry.attribute}
        known[entry.output[0]] = _OPERATORS[entry.op_type](settings, *given)
    return list(known[made.graph.output[0].name].ravel())


def _gemm(settings: dict[str, Any], a: Exact, b: Exact, c: Exact | None = None) -> Exact:
    a = a.T if settings.get("transA") else a
    b = b.T if settings.get("transB") else b
    product = (a @ b) * Fraction(settings.get("alpha", 1.0))
    return product if c is None else product + c * Fraction(settings.get("beta", 1.0))


def _flatten(settings: dict[str, Any], a: Exact) -> Exact:
    axis = settings.get("axis", 1)
    rows = int(np.prod(a.shape[:axis]))
    return a.reshape(rows, -1)


def _reshape(_: dict[str, Any], a: Exact, shape: Exact) -> Exact:
    return a.reshape([int(n) or a.shape[k] for k, n in enumerate(shape)])


def _squeeze(settings: dict[str, Any], a: Exact, axes: Exact | None = None) -> Exact:
    chosen = settings.get("axes") if axes is None else axes
    return a.squeeze() if chosen is None else a.squeeze(tuple(int(k) for k in chosen))


def _unsqueeze(settings: dict[str, Any], a: Exact, axes: Exact | None = None) -> Exact:
    chosen = settings["axes"] if axes is None else axes
    return np.expand_dims(a, tuple(int(k) for k in chosen))


def _constant(settings: dict[str, Any]) -> Exact:
    (value,) = settings.values()
    return exact(numpy_helper.to_array(value) if hasattr(value, "dims") else np.array(value))


_OPERATORS: dict[str, Callable[..., Exact]] = {
    "Add": lambda _, a, b: a + b,
    "Constant": _constant,
    "Div": lambda _, a, b: a / b,
    "Dropout": lambda _, a, *_unused: a,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": lambda _, a: a,
    "MatMul": lambda _, a, b: a @ b,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, a: (a + abs(a)) / 2,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Sub": lambda _, a, b: a - b,
    "Transpose": lambda settings, a: a.transpose(settings.get("perm")),
    "Unsqueeze": _unsqueeze,
}
