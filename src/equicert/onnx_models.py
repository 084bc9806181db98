"""ONNX files of fully connected ReLU networks, read exactly into implicit form.

Read are Gemm, MatMul, Add, Sub, Mul and Div with constants, Relu, and what changes shapes only. The
graph is walked in exact arithmetic (`layers`): the network that results computes the same function
as the graph does in real arithmetic on the stored weights. Other operators are refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from equicert.compressed import read_file
from equicert.errors import ModelError, nearest
from equicert.layers import Layers
from equicert.onnx_operators import OPERATORS, Node, Value
from equicert.stored import StoredNetwork

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE)
_READ: Final = (*_FLOATS, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_MOST_INPUTS = 2**20
_OLDEST = 7  # of the operators' versions: before it, Add and its like broadcast in another way
# What onnx raises on contents that are no model, or whose tensors are not as long as they say.
_UNREADABLE = (DecodeError, ValueError, TypeError, RuntimeError, MemoryError, OverflowError)
_UNREADABLE += (LookupError,)


@dataclass(frozen=True)
class OnnxNetwork:
    """A network of a file, and how its outputs relate to the file's.

    Attributes:
        network: in implicit form.
        scale: the outputs of the file are those of the network divided by this number, which
            collects divisions that float64 weights cannot hold; mostly 1.
    """

    network: StoredNetwork
    scale: Fraction


def load_onnx(path: str | Path) -> OnnxNetwork:
    """The network of an .onnx file, or of an .onnx.gz.

    Its inputs and outputs are numbered row by row, as VNN-LIB numbers them. A batch dimension that
    is left open is 1.

    Raises:
        InputError: the file cannot be read.
        ModelError: it is no ONNX model, or has something that is not read: named in one line.
    """
    path = Path(path)
    contents = read_file(path)
    try:
        try:
            model = onnx.load_model_from_string(contents)
            return _read(model)
        except ModelError:
            raise
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"is no readable ONNX model: {reason[:200]}") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _read(model: onnx.ModelProto) -> OnnxNetwork:
    graph = model.graph
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] < _OLDEST:
        found = versions[0] if versions else "none"
        raise ModelError(f"operators of version {_OLDEST} or later are read, found {found}")
    if graph.sparse_initializer:
        raise ModelError("sparse initialisers are not read; store the weights as plain tensors")
    known: dict[str, Value | NDArray[Any]] = {t.name: _array(t) for t in graph.initializer}
    entry = [value for value in graph.input if value.name not in known]
    if len(entry) != 1 or len(graph.output) != 1:
        raise ModelError(
            f"the graph has {len(entry)} inputs and {len(graph.output)} outputs; networks with one"
            " of each are read"
        )
    known[entry[0].name] = _input(entry[0])
    for number, proto in enumerate(graph.node):
        _take(number, proto, known)
    found = known.get(graph.output[0].name)
    if not isinstance(found, Value):
        raise ModelError(
            f"its output '{graph.output[0].name}' is not computed from the input '{entry[0].name}'"
        )
    return OnnxNetwork(found.layers.network(), found.layers.scale)


def _take(number: int, proto: onnx.NodeProto, known: dict[str, Value | NDArray[Any]]) -> None:
    """Compute a node; its first output becomes known."""
    name = f" '{proto.name}'" if proto.name else ""
    label = f"node {number}{name} ({proto.op_type})"
    operator = OPERATORS.get(proto.op_type)
    if operator is None or proto.domain not in ("", "ai.onnx"):
        domain = f" of the domain '{proto.domain}'" if proto.domain not in ("", "ai.onnx") else ""
        raise ModelError(
            f"{label}{domain}: this operator is not read"
            f"{nearest(proto.op_type, OPERATORS)}; fully connected ReLU networks are"
        )
    values: list[Value | NDArray[Any] | None] = []
    for word in proto.input:
        if word and word not in known:
            raise ModelError(f"{label}: its input '{word}' is computed nowhere before it")
        values.append(known[word] if word else None)
    attributes = {a.name: _attribute(label, a) for a in proto.attribute}
    unknown = sorted(attributes.keys() - operator.attributes)
    if unknown:
        raise ModelError(f"{label}: its attribute '{unknown[0]}' is not read")
    if not operator.least <= len(values) <= operator.most:
        raise ModelError(f"{label}: has {len(values)} inputs")
    try:
        made = operator.compute(Node(attributes, tuple(values), len(proto.output)))
    except (ModelError, ValueError) as error:  # NumPy's, of shapes that do not fit
        raise ModelError(f"{label}: {error}") from error
    known[proto.output[0]] = made


def _attribute(label: str, attribute: onnx.AttributeProto) -> Any:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _array(attribute.t)
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise ModelError(f"{label}: graphs within graphs are not read")
    return onnx.helper.get_attribute_value(attribute)


def _array(tensor: TensorProto) -> NDArray[Any]:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(
            f"the tensor '{tensor.name}' lies in another file; save the model with its weights"
            " inside"
        )
    if tensor.data_type not in _READ:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise ModelError(f"the tensor '{tensor.name}' is {kind}; weights are FLOAT or DOUBLE")
    return numpy_helper.to_array(tensor)


def _input(value: onnx.ValueInfoProto) -> Value:
    kind = value.type.tensor_type
    if kind.elem_type not in _FLOATS:
        name = TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(f"the input '{value.name}' is {name}; FLOAT or DOUBLE is read")
    dims = list(kind.shape.dim)
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
    shape = tuple(1 if size is None and not axis else size for axis, size in enumerate(sizes))
    if not dims or any(size is None for size in shape):
        raise ModelError(
            f"the input '{value.name}' has no fixed shape; only its first dimension, the batch,"
            " may be left open"
        )
    fixed = tuple(size for size in shape if size is not None)
    if math.prod(fixed) > _MOST_INPUTS:
        raise ModelError(
            f"the input has {math.prod(fixed)} numbers; {_MOST_INPUTS} at most are read"
        )
    return Value(Layers.of_inputs(math.prod(fixed)), fixed)
