"""Operators in files: a structure, spelt, and the tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from equicert.errors import ModelError
from equicert.operators import blocks
from equicert.operators.base import Block, Operator
from equicert.operators.convolution import Convolution
from equicert.operators.dense import Dense
from equicert.operators.geometry import Geometry

_OWN = " diagonal"


def tensors_of(structure: str) -> Mapping[str, int]:
    """The names of an operator's tensors, behind its own, and how many dimensions each has.

    Raises:
        ModelError: the structure is not known.
    """
    if structure == Dense.structure:
        return {"": 2}
    if structure.startswith("blocks"):
        found = enumerate(blocks.parse(structure)[1])
        return {f".{k}{n}": d for k, part in found for n, d in tensors_of(part[2]).items()}
    Geometry.parse(structure.removesuffix(_OWN))
    return {".kernel": 4, **({".diagonal": 1} if structure.endswith(_OWN) else {})}


def operator_of(
    structure: str,
    tensors: Mapping[str, Tensor],
) -> Operator:
    """The operator with this structure and these tensors.

    Raises:
        ModelError: the structure is not known, or the tensors do not fit it.
    """
    if structure == Dense.structure:
        return Dense(tensors[""])
    if structure.startswith("blocks"):
        return _assembled(structure, tensors)
    geometry = Geometry.parse(structure.removesuffix(_OWN))
    return Convolution(tensors[".kernel"], geometry, tensors.get(".diagonal"))


def _assembled(structure: str, tensors: Mapping[str, Tensor]) -> blocks.Blocks:
    """The blocks of this structure, each with the tensors behind its number."""
    size, parts = blocks.parse(structure)
    found = []
    for k, (row, column, inner) in enumerate(parts):
        own = {name: tensors[f".{k}{name}"] for name in tensors_of(inner)}
        found.append(Block(row, column, operator_of(inner, own)))
    return blocks.Blocks(size, tuple(found))


def require_known(name: str, operator: Operator) -> None:
    """Raise ModelError unless `operator_of` makes operators of this structure."""
    try:
        tensors_of(operator.structure)
    except ModelError as error:
        raise ModelError(
            f"{name} has the structure '{operator.structure}'; model files hold matrices,"
            " convolutions and blocks of them"
        ) from error


def spelt(operators: Mapping[str, Operator]) -> str:
    """The structures of a network's operators, as its file has them."""
    found = {name: A.structure for name, A in operators.items()}
    if set(found.values()) == {Dense.structure}:
        return Dense.structure
    return ";".join(f"{name}:{structure}" for name, structure in found.items())


def read(text: str, names: tuple[str, ...]) -> Mapping[str, str]:
    """The structure of each operator, of what `spelt` made.

    Raises:
        ModelError: a structure that is not known.
    """
    if text == Dense.structure:
        return dict.fromkeys(names, text)
    parts = [part.partition(":") for part in text.split(";")]
    found = {name: structure for name, _, structure in parts}
    if len(parts) != len(names) or tuple(found) != names:
        raise ModelError(f"the structure {text[:80]!r} is not known")
    for structure in found.values():
        tensors_of(structure)
    return found
