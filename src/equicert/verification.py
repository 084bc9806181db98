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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equicert.bounds import Complete, Dual
from equicert.boxes import Box
from equicert.compressed import plain_suffix
from equicert.conjunctions import with_combinations
from equicert.exact_outputs import ExactOutputs
from equicert.falsifier import Search
from equicert.models import load_model
from equicert.onnx_models import OnnxNetwork, load_onnx
from equicert.properties import Case, Property, forms_of, held
from equicert.queries import Query
from equicert.stored import StoredNetwork
from equicert.targets import Targets
from equicert.witnesses import falsify, upper_bounds

_SAMPLES = 100  # of corners, and of other points, for `conjunctions`
_THOROUGH = Search(steps=30, clauses=5, restarts=4)
_TIMEOUT = "timeout"


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
    """A network to verify: .onnx, .onnx.gz, .safetensors, .npz or `zoo:NAME`.

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
    cases = prop.times(scale).cases
    open_: list[str] = []
    for number, case in enumerate(cases):
        left = deadline - time.monotonic()
        if left <= 0:
            open_.append(_TIMEOUT)
            break
        proved, reason = False, ""
        for found in _attempts(network, case, left / (len(cases) - number)):
            counterexample = None if found.point is None else judge(case, found.point)
            if counterexample is not None:
                return Verification(Result.SAT, "", counterexample)
            proved, reason = proved or found.holds, found.reason or reason
        if not proved:
            open_.append(reason)
    if not open_:
        return Verification(Result.UNSAT)
    if _TIMEOUT in open_:
        return Verification(Result.TIMEOUT, f"not decided in {seconds:g} s")
    return Verification(Result.UNKNOWN, open_[0])


@dataclass(frozen=True)
class _Attempt:
    """What a method says of a case.

    Attributes:
        point: (r,) float64, the most promising counterexample, or None.
        holds: whether the property is proved over the case.
        reason: "" where it is, else why not.
    """

    point: Tensor | None
    holds: bool = False
    reason: str = ""


def _attempts(network: StoredNetwork, case: Case, seconds: float) -> Iterator[_Attempt]:
    """The one place that chooses methods: they decide the case within the time, or say why not."""
    deadline = time.monotonic() + seconds
    query = _query(network, case)
    if any(len(clause) > 1 for clause in case.clauses):
        # The verifier follows one form of a clause at a time.
        found = falsify(network, query, case.within(), search=_THOROUGH)
        yield _Attempt(found.bounds.x[0])
    left = deadline - time.monotonic()
    if left <= 0:
        yield _Attempt(None, reason=_TIMEOUT)
        return
    complete = Complete(timeout=None, total=None if math.isinf(left) else left)
    answer = complete.answer(network, query)
    [finding] = answer.findings or (None,)
    point = None if finding is None or finding.point is None else torch.from_numpy(finding.point)
    yield _Attempt(point, bool(answer.holds.all()), answer.reasons[0])


def _query(network: StoredNetwork, case: Case) -> Query:
    """The forms of the case over its box, rounded so that they prove."""
    box = case.around()
    clauses = case.clauses
    if any(len(clause) > 1 for clause in clauses):
        clauses = with_combinations(clauses, _samples(network, box))
    size = None if held(clauses) else _sizes(network, box)
    return case.query(forms_of(clauses, network.outputs, size))


@torch.no_grad()
def _samples(network: StoredNetwork, box: Box) -> NDArray[np.float64]:  # (s, q)
    """Outputs at the middle of a box, at corners and at random points, in floating point."""
    shares = np.random.default_rng(0).uniform(size=(_SAMPLES, box.inputs))
    shares = torch.from_numpy(
        np.vstack([np.zeros_like(shares[:1]) + 0.5, np.round(shares), shares])
    )
    x = box.clamp(box.lo * (1 - shares) + box.hi * shares)
    return (network.solve(x).value @ network.C.mT + network.c).numpy()


def _sizes(network: StoredNetwork, box: Box) -> list[float]:
    """Proved bounds on |y| over the box; infinite where there are none."""
    lower = Dual().answer(network, Query.of_outputs(box, network.outputs)).lower[0]
    lo, above = lower.chunk(2)  # of y and of -y
    return (-torch.minimum(lo, above)).clamp(min=0).tolist()


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
        bounds = self._outputs(point)
        if bounds is None or not case.met(*bounds):
            return None
        lo, hi = bounds
        y = tuple(float((a + b) / (2 * self._scale)) for a, b in zip(lo, hi, strict=True))
        return Counterexample(point, y)

    def _outputs(self, x: tuple[Fraction, ...]) -> tuple[list[Fraction], list[Fraction]] | None:
        """Bounds on y at a rational point; both the same where they are exact.

        None where nothing is proved: of networks with cycles, at points that no float64 is.
        """
        if self._exact is not None:
            y = self._exact(x)
            return y, y
        near = torch.tensor([[float(v) for v in x]], dtype=torch.float64)
        q = self._network.outputs
        identity = torch.eye(q, dtype=torch.float64)
        forms = torch.cat([identity, -identity])[None, None]
        targets = Targets(forms, forms.new_zeros(1, 1, 2 * q), torch.zeros(1, dtype=torch.int64))
        upper = upper_bounds(self._network, near, targets).upper[0]
        if tuple(map(Fraction, near[0].tolist())) != x or not bool(upper.isfinite().all()):
            return None
        hi, below = ([Fraction(v) for v in part.tolist()] for part in upper.chunk(2))
        return [-v for v in below], hi
