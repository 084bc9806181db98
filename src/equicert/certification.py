"""`certify`: from weights to verdicts.

`certified` means: for the network with exactly the stored weights, in real arithmetic, every x in
the box has a unique fixed point and the label's output is strictly the largest. The solver
proposes; rounded-outwards tests certify. `claimed` means that a floating-point solver says so,
without a proof. Anything less is `unknown`, with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from equicert.bounds import Interval, Method
from equicert.bounds.ball import point_ball, state_box
from equicert.bounds.base import answer_from_state
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Bound, Box, Domain, Surroundings
from equicert.contraction import Contraction
from equicert.deployed import Deployed, deployed_by
from equicert.errors import (
    EquicertError,
    InputError,
    NotContractingError,
    NotConvergedError,
    NotMonotoneError,
    RoundingError,
    RowSumError,
)
from equicert.network import ImplicitNetwork
from equicert.proofs import Finding
from equicert.queries import Answer, Query, StateBox, StateProofs, check_labels
from equicert.stored import StoredNetwork

STATUSES = ("certified", "claimed", "misclassified", "falsified", "unknown")
# What keeps a method from deciding anything at all, in the words of a verdict.
_UNDECIDED: dict[type[EquicertError], str] = {
    NotContractingError: "not contracting",
    NotMonotoneError: "not monotone",
    RowSumError: "row sums",
    NotConvergedError: "rounding",  # no Lipschitz bound passed its rounded test
}
# What a search adds to a verdict, where it has something to add.
_SEARCHED = {"nodes": 0, "above": float("inf"), "rival": -1, "search_seconds": 0.0}
_POINT_TOLERANCE = 1e-7  # of z*(x); what it leaves of a proof is accounted for


@dataclass(frozen=True)
class Verdict:
    """What is known of one sample.

    Attributes:
        status: "certified", "misclassified" (some class beats the label at x itself), "falsified"
            (one does at another point of the exact box), all rigorous; "claimed" by a method that
            proves nothing (`Semidefinite`); or "unknown".
        label: the label asked about.
        predicted: the network's label at the clean point; -1 where it could not be computed.
        margin: lower bound on the least margin over the box, rigorous unless the method's are
            claims; minus infinity if none.
        method: the method's name; of several that escalate, the one that decided.
        reason: why it is unknown ("margin", "timeout", "tie", "size", "memory", "unconverged",
            "rounding", "not contracting", "not monotone", "not well-posed", "row sums", ...) or "".
        solver_status: what the solver of a claim said, "optimal" for example; "" where there was
            none, or where it was not asked since the box's centre has another class.
        deployed: where it was asked, "certified" if the label is also that of the float32 program
            `deploy(network)` for every x of the box, or "unknown"; else "".
        deployed_reason: why that is unknown ("margin", "float32 rounding", or "not certified" in
            real arithmetic); else "".
        nodes: subproblems bounded by a method that searches.
        above: upper bound on the least margin over the box, rigorous; infinite if none is known.
        rival: where it is falsified, the class that beats the label; else -1.
        search_seconds: spent on this sample alone.
    """

    status: str
    label: int
    predicted: int
    margin: float
    method: str
    reason: str
    solver_status: str = ""
    deployed: str = ""
    deployed_reason: str = ""
    nodes: int = 0
    above: float = float("inf")
    rival: int = -1
    search_seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """The fields, with an infinite margin as None (JSON has no infinity).

        The solver's status is there only if there is one, and what is deployed if it was asked;
        what a search found, if there was one.
        """
        fields = asdict(self)
        for name, nothing in _SEARCHED.items():
            if fields[name] == nothing:
                del fields[name]
        if not self.solver_status:
            del fields["solver_status"]
        if not self.deployed:
            del fields["deployed"], fields["deployed_reason"]
        if self.margin in (float("inf"), float("-inf")):
            fields["margin"] = None
        return fields


@dataclass(frozen=True)
class Decided:
    """The verdicts of a batch, and what proves them.

    Attributes:
        verdicts: one a sample.
        proofs: the state boxes of what is certified; None where the method makes none.
        findings: per sample, the other proofs and the witnesses.
    """

    verdicts: list[Verdict]
    proofs: StateProofs | None
    findings: tuple[Finding | None, ...]


def certify(
    network: StoredNetwork | ImplicitNetwork,
    x: Tensor,  # (batch, r) or (r,)
    label: Tensor | int,  # (batch,) or a number
    eps: Bound,
    *,
    domain: Domain = None,
    method: Method | None = None,
    batch_size: int = 1000,
    tolerance: float | None = None,
) -> list[Verdict]:
    """Verdicts for the boxes `[max(x - eps, lo), min(x + eps, hi)]`, [lo, hi] the domain.

    Example:
        >>> network = StoredNetwork.from_arrays(W, U, b, C, c, "relu")
        >>> [verdict] = certify(network, x, label=3, eps=0.1, domain=(0.0, 1.0))
        >>> verdict.status
        'certified'

    Args:
        network: stored, or a module, whose present weights are then taken.
        x: points; float64 values are taken as the exact rationals they are.
        label: classes, 0..q-1.
        eps: radius in the sup-norm, in the units of x: a number, (r,) or (batch, 1).
        domain: two numbers or two (r,) vectors to intersect the box with, or None.
        method: `Interval()` (certificate (14) of [J22], default), `Lipschitz()` (13) in its derived
            form, `LipschitzRadius(bound)` (13) as printed, `SignSplit()` ([WeiK22]),
            `Spectral()`, `SpectralAtPoint()` and `SpectralLmi()` for monotone networks ([P21],
            [R20]), `Dual()`, `Tightening()`, `Complete()` and `Auto()` (complete for
            piecewise-linear activations only), or `Semidefinite()` for claims ([C21]).
        batch_size: samples at a time; changes no verdict to a false one.
        tolerance: if given, say of each sample, too, whether it is certified as deployed: for what
            the float32 program `deploy(network, tolerance)` returns.

    Raises:
        InputError: eps negative or NaN, a point outside the domain, a label out of range, x of the
            wrong width. A stored network without the proof that the method needs is no error here:
            every verdict is then `unknown`, reason "not contracting" or "not monotone".
        NotContractingError: a module whose present weights are not proved contracting.
        ModelError, RoundingError: nothing can be said of the network as deployed.
    """
    stored = as_stored(network)
    method = method or Interval()
    deployed = None if tolerance is None else deployed_by(method, stored, tolerance)
    x = torch.as_tensor(x)
    x = stored.check_inputs(x)
    labels = check_labels(torch.as_tensor(label), len(x), stored.outputs)
    boxes = Surroundings(x, eps, domain)
    batch_size = min(batch_size, method.together)
    chunks = decide_boxes(stored, x, labels, boxes, method, batch_size, deployed)
    return [verdict for decided in chunks for verdict in decided.verdicts]


@torch.no_grad()
def decide_boxes(
    network: StoredNetwork,
    x: Tensor,  # (batch, r) float64
    labels: Tensor,  # (batch,) int64
    boxes: Box | Surroundings,
    method: Method,
    batch_size: int,
    deployed: Deployed | None = None,
) -> Iterator[Decided]:
    """Verdicts and proofs for boxes at hand, a chunk at a time, as they become known."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    began, limit = time.monotonic(), method.total
    for begin in range(0, len(x), batch_size):
        if limit is not None:
            method = method.within(limit - (time.monotonic() - began))
        rows = slice(begin, begin + batch_size)
        inner = boxes.inner(rows) if method.hunts and isinstance(boxes, Surroundings) else None
        yield _decide(network, x[rows], labels[rows], boxes[rows], inner, method, deployed)


def _decide(
    network: StoredNetwork,
    x: Tensor,
    labels: Tensor,
    box: Box,
    inner: Box | None,
    method: Method,
    deployed: Deployed | None,
) -> Decided:
    query = Query.of_margins(box, labels, network.outputs, x, inner)
    held, margin = torch.zeros_like(labels, dtype=torch.bool), x.new_full((len(x),), -torch.inf)
    predicted, wrong, reasons = torch.full_like(labels, -1), held, ()
    claimed, solver = held, ("",) * len(x)
    proofs, findings = None, (None,) * len(x)
    as_run: Answer | None = None
    try:
        point = None
        try:
            answer = method.answer(network, query)
            held, margin, reasons = answer.holds, answer.margin, answer.reasons
            claimed, point = answer.claimed, answer.point
            solver = answer.solver_status or solver
            proofs = answer.proofs if method.post_fixed else None
            findings = answer.findings or findings
            as_run = None if deployed is None else deployed.answer(answer)
        except tuple(_UNDECIDED) as error:
            why = next(why for kind, why in _UNDECIDED.items() if isinstance(error, kind))
            reasons = (why,) * len(x)
        predicted, wrong = _at_the_points(network, x, labels, held, point)
    except NotContractingError:  # nor is it monotone: no prediction is known to be one
        reasons = reasons or (_UNDECIDED[NotContractingError],) * len(x)
    except RoundingError:
        reasons = ("rounding",) * len(x)
    broken = [found is not None and found.witness is not None for found in findings]
    falsified = torch.tensor(broken, dtype=torch.bool, device=held.device)
    status = _statuses(held, wrong, falsified, claimed & (predicted == labels))
    columns = (labels, predicted, margin)
    verdicts = [
        Verdict(word, label, found, least, method.name, why if word == "unknown" else "", said)
        for word, label, found, least, why, said in zip(
            status, *(column.tolist() for column in columns), reasons, solver, strict=True
        )
    ]
    verdicts = [_with(verdict, found) for verdict, found in zip(verdicts, findings, strict=True)]
    if deployed is not None:
        verdicts = _deployed(verdicts, as_run)
    return Decided(verdicts, proofs, findings)


def _with(verdict: Verdict, found: Finding | None) -> Verdict:
    """The verdict with what a search found."""
    if found is None:
        return verdict
    witness = found.witness if verdict.status == "falsified" else None
    return replace(
        verdict,
        method=found.stage or verdict.method,
        nodes=found.nodes,
        above=found.above,
        rival=-1 if witness is None else witness.rival,
        search_seconds=found.seconds,
    )


def _deployed(verdicts: list[Verdict], as_run: Answer | None) -> list[Verdict]:
    """The verdicts with what the same boxes say of the program; nothing where there is no box."""
    whys = ("not certified",) * len(verdicts) if as_run is None else as_run.reasons
    return [
        replace(verdict, deployed="certified")
        if verdict.status == "certified" and not why
        else replace(verdict, deployed="unknown", deployed_reason=why)
        for verdict, why in (
            (verdict, why if verdict.status == "certified" else "not certified")
            for verdict, why in zip(verdicts, whys, strict=True)
        )
    ]


def _at_the_points(
    network: StoredNetwork,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,)
    held: Tensor,  # (batch,) bool, where the label is proved over the box
    point: StateBox | None,  # about z*(x), if the method made one
) -> tuple[Tensor, Tensor]:  # (batch,) int64, (batch,) bool
    """The predictions at x, -1 where unknown, and where they are proved to differ from the label.

    Nothing is computed where the label is proved over the box: it holds at x, too.
    """
    predicted, wrong = labels.clone(), torch.zeros_like(held)
    rows = (~held).nonzero()[:, 0]
    if len(rows):
        z, known, prove = _states(network, x[rows], None if point is None else point[rows])
        y = torch.addmm(network.c, z, network.C.mT)
        known &= y.isfinite().all(1)
        predicted[rows] = torch.where(known, y.argmax(1), -1)
        mistaken = (known & (predicted[rows] != labels[rows])).nonzero()[:, 0]
        found = rows[mistaken]
        wrong[found] = _beaten(network, x[found], labels[found], predicted[found], prove(mistaken))
    return predicted, wrong


def _states(
    network: StoredNetwork,
    x: Tensor,  # (batch, r)
    point: StateBox | None,
) -> tuple[Tensor, Tensor, Callable[[Tensor], StateBox]]:  # (batch, n), (batch,) bool
    """z*(x), where it is known, and how to prove a box about it for some rows."""
    if point is not None:
        return 0.5 * (point.lo + point.hi), point.proved.clone(), point.__getitem__
    solution = network.solve(x, _POINT_TOLERANCE)

    def prove(rows: Tensor) -> StateBox:
        z, own = solution.value[rows], x[rows]
        done, bound = solution.converged[rows], solution.bound[rows]
        if isinstance(network.well_posed, Contraction):
            return prove_state_box(network, network.drive_bounds(own, own), z, z, done, bound)
        return state_box(network, point_ball(network, own, z), torch.zeros_like(bound), done)

    return solution.value, solution.converged.clone(), prove


def _beaten(
    network: StoredNetwork,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,)
    rivals: Tensor,  # (batch,) the predictions, none of which is the label
    state: StateBox,  # about z*(x)
) -> Tensor:  # (batch,) bool
    """Where `y_rival > y_label` is proved at x itself."""
    query = Query.of_margins(Box(x, x), rivals, network.outputs)
    lower = answer_from_state(network, query, state).lower
    column = labels - (labels > rivals).to(torch.int64)  # of the label among the rival's others
    return lower.gather(1, column[:, None])[:, 0] > 0


def _statuses(held: Tensor, wrong: Tensor, falsified: Tensor, claimed: Tensor) -> list[str]:
    """A word a sample; what is proved goes before what is claimed."""
    words = (("certified", held), ("misclassified", wrong), ("falsified", falsified))
    words += (("claimed", claimed),)
    return [
        next((word for word, where in words if bool(where[row])), "unknown")
        for row in range(len(held))
    ]


def as_stored(network: StoredNetwork | ImplicitNetwork) -> StoredNetwork:
    """The stored form of either kind of network."""
    return network if isinstance(network, StoredNetwork) else network.store()
