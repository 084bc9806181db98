"""Properties of networks decided: proofs from `bounds`, counterexamples tested exactly.

The verdict is about the function that the stored weights define in real arithmetic, over the exact
rational box of the file and its closed half-spaces.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.compressed import plain_suffix
from equicert.errors import InputError
from equicert.exact_outputs import ExactOutputs
from equicert.models import load_model
from equicert.onnx_models import OnnxNetwork, load_onnx
from equicert.properties import Case, Property, float_down, float_up, forms_of, held
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork


class Result(Enum):
    """What is known of a property, in the words of VNN-COMP."""

    UNSAT = "unsat"  # no point of the boxes is mapped into the unsafe set: the property holds
    SAT = "sat"  # one is, and it is shown
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Counterexample:
    """A point of the exact box whose output lies in the unsafe set.

    Attributes:
        x: exactly.
        y: of the network there, to rounding.
    """

    x: tuple[Fraction, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Verification:
    """The verdict on a property.

    Attributes:
        result: the verdict.
        reason: "" where it is decided, else why not.
        counterexample: where it is `SAT`.
    """

    result: Result
    reason: str = ""
    counterexample: Counterexample | None = None


def load_network(path: str | Path, activation: str | None = None) -> OnnxNetwork:
    """A network to verify: .onnx, .onnx.gz, .safetensors or .npz.

    Args:
        path: the file.
        activation: needed where an npz file does not name it.

    Raises:
        InputError: as `load_onnx` and `load_model`.
    """
    if plain_suffix(Path(path)) == ".onnx":
        return load_onnx(path)
    return OnnxNetwork(load_model(path, activation), Fraction(1))


def verify(
    network: StoredNetwork,
    prop: Property,
    seconds: float = math.inf,
    scale: Fraction = Fraction(1),
) -> Verification:
    """Whether any point of the property's boxes is mapped into its unsafe set.

    Example:
        >>> verify(network, load_property("prop.vnnlib"), seconds=60).result

    Args:
        network: as stored.
        prop: over the outputs of the network divided by `scale`.
        seconds: after which the verdict is `TIMEOUT`.
        scale: as `OnnxNetwork` has it.

    Raises:
        InputError: the property is over other numbers of inputs or outputs, or has numbers beyond
            float64.
        NotContractingError: the network is not proved well-posed.
    """
    deadline = time.monotonic() + seconds
    prop.check(network)
    judge = _Judge(network, scale)
    open_ = ""
    for case in prop.times(scale).cases:
        query = _query(network, case)
        answer = _bounds(network, query)
        if bool(answer.holds.all()):
            continue
        for x in _candidates(case):
            counterexample = judge(case, x)
            if counterexample is not None:
                return Verification(Result.SAT, "", counterexample)
        if time.monotonic() >= deadline:
            return Verification(Result.TIMEOUT, f"timeout after {seconds:g} s")
        open_ = open_ or answer.reasons[0]
    return Verification(Result.UNKNOWN if open_ else Result.UNSAT, open_)


def _query(network: StoredNetwork, case: Case) -> Query:
    """The forms of the case over its box, rounded so that they prove."""
    size = None if held(case.clauses) else _sizes(network, case.around())
    return case.query(forms_of(case.clauses, network.outputs, size))


def _sizes(network: StoredNetwork, box: Box) -> list[float] | None:
    """Proved bounds on |y| over the box, if there are any."""
    lo, hi = _outputs(network, box)
    return torch.maximum(lo.abs(), hi.abs()).tolist() if bool(lo.isfinite().all()) else None


def _outputs(network: StoredNetwork, box: Box) -> tuple[Tensor, Tensor]:  # (q,) each
    """Proved bounds on y over a single box."""
    lower = _bounds(network, Query.of_outputs(box, network.outputs)).lower[0]
    lo, above = lower.chunk(2)
    return lo, -above


def _bounds(network: StoredNetwork, query: Query) -> Answer:
    """What proves: the one place that chooses the method."""
    return Interval().answer(network, query)


def _candidates(case: Case) -> Iterator[Tensor]:  # (r,) each
    """Points of the box that may be counterexamples."""
    box = case.within()
    yield from ((box.lo + box.hi)[0] / 2, box.lo[0], box.hi[0])


class _Judge:
    """Decides whether a point is a counterexample: exactly where it can, else by proved bounds."""

    def __init__(self, network: StoredNetwork, scale: Fraction) -> None:
        self._network, self._scale = network, scale
        self._exact = ExactOutputs.of(network)

    def __call__(
        self,
        case: Case,
        x: Tensor,  # (r,) float64
    ) -> Counterexample | None:
        point = case.clamp(x)
        lo, hi = self._outputs(point)
        if not case.met(lo, hi):
            return None
        y = tuple(float((a + b) / (2 * self._scale)) for a, b in zip(lo, hi, strict=True))
        return Counterexample(point, y)

    def _outputs(self, x: tuple[Fraction, ...]) -> tuple[list[Fraction], list[Fraction]]:
        """Bounds on y at a rational point; both the same where they are exact.

        Raises:
            InputError: no finite ones.
        """
        if self._exact is not None:
            y = self._exact(x)
            return y, y
        ends = ([float_down(v) for v in x], [float_up(v) for v in x])
        box = Box(*(torch.tensor(end, dtype=torch.float64) for end in ends))
        lo, hi = _outputs(self._network, box)
        if not bool((lo.isfinite() & hi.isfinite()).all()):
            raise InputError("the outputs at a point of the box are not proved finite")
        return [Fraction(v) for v in lo.tolist()], [Fraction(v) for v in hi.tolist()]
