"""The five checks of a folder, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from equicert.checker.box import input_box, point_of
from equicert.checker.data import Sample, read_samples
from equicert.checker.exact import Exact
from equicert.checker.files import NotValidError
from equicert.checker.folder import Claim, read_claim, read_decided, read_inputs
from equicert.checker.integers import Box, show
from equicert.checker.model import read_model
from equicert.checker.records import STATE_BOX, TREE, WITNESS, Record, Records
from equicert.checker.start import states
from equicert.checker.tree import check_claim, check_tree

_T = TypeVar("_T")


@dataclass
class Report:
    """What was found valid.

    Attributes:
        model: the digest.
        certificates: how many, trees among them.
        trees: how many are trees.
        witnesses: how many inputs have another label.
        dropped: whether a last record, cut short, was left out.
        radii: least and greatest eps of the boxes that are given by one; None without any.
        domain: as the folder says it: None, or the least lower and the greatest upper bound.
        compared: whether inputs and labels were compared with the data set.
        certified: the verdicts "certified" that a certificate backs; None where none were given.
        falsified: the verdicts "falsified" that a witness backs; likewise.
    """

    model: str
    domain: tuple[float, float] | None
    compared: bool
    certificates: int = 0
    trees: int = 0
    witnesses: int = 0
    dropped: bool = False
    radii: tuple[float, float] | None = None
    certified: int | None = None
    falsified: int | None = None
    backing: dict[int, tuple[bool, int, float | None]] = field(default_factory=dict, repr=False)


def check_folder(
    folder: Path,
    model: Path,
    activation: str | None = None,
    data: str | None = None,
    verdicts: Path | None = None,
) -> Report:
    """Check all that a folder of certificates claims about a model.

    Args:
        folder: holds certificates.json, certificates.bin, inputs.npz.
        model: a .safetensors or .npz file.
        activation: needed where an npz file does not name it.
        data: what the inputs must be bit for bit, and the labels; see `data.read_samples`.
        verdicts: a verdict file whose every "certified" must have its certificate, and every
            "falsified" its witness; by default folder/verdicts.jsonl, if there is one.

    Raises:
        NotValidError: something claimed does not hold; the message says what, with numbers.
        UnreadableError: a file is missing, damaged, or not of the format: nothing is decided.
    """
    network = read_model(model, activation)
    claim = read_claim(folder, network)
    exact = Exact(network)
    if claim.eta is not None:
        exact.check_eta(claim.eta)
    if claim.monotone is not None:
        exact.check_monotone(claim.monotone)
    for _ in read_inputs(folder, claim, network.r):
        pass  # to the end, where their digest is compared
    domain = None if claim.domain is None else (min(claim.domain[0]), max(claim.domain[1]))
    report = Report(claim.model, domain, data is not None)
    records = Records(folder, network)
    with ExitStack() as stack:  # closes what is read in part only, where a record does not hold
        inputs = _at(stack.enter_context(closing(read_inputs(folder, claim, network.r))), "inputs")
        samples = None
        if data is not None:
            samples = _at(stack.enter_context(closing(read_samples(data, network.r))), "data set")
        for record in stack.enter_context(closing(iter(records))):
            if record.row >= claim.count:
                raise NotValidError(f"row {record.row} of {claim.count} inputs has a certificate")
            x = inputs(record.row)
            if samples is not None:
                _check_sample(record, x, samples(record.row))
            check_record(exact, record, x, claim)
            _count(report, record)
    report.dropped = records.dropped
    if verdicts is not None or (folder / "verdicts.jsonl").exists():
        _check_verdicts(report, verdicts or folder / "verdicts.jsonl", claim)
    return report


def check_record(exact: Exact, record: Record, x: Sequence[float], claim: Claim) -> None:
    """Checks 3 to 5 of one record about the input x."""
    where = f"row {record.row}: "
    if record.label >= exact.q:
        raise NotValidError(f"{where}label {record.label} of {exact.q} outputs")
    inputs = input_box(record, x, claim, where)
    if record.kind == WITNESS and record.x is not None:
        inputs = point_of(inputs, record.x, where)
    found = states(exact, claim, record.start, inputs, where)
    if record.kind == TREE:
        check_tree(exact, record, found, inputs, where)
    elif record.kind == WITNESS:
        _check_rival(exact, record, found, where)
    else:
        _check_margins(exact, record, found, where)


def _check_margins(exact: Exact, record: Record, found: Box, where: str) -> None:
    """(C_y - C_j) z + c_y - c_j >= the claimed margin > 0 over the box for all j != y."""
    others = [j for j in range(exact.q) if j != record.label]
    for j, claimed in zip(others, record.margins or (), strict=True):
        check_claim(claimed, j, where)
        least, _, k = exact.margin(record.label, j, found)
        wanted, margin = Fraction(claimed), Fraction(least, 2 << k)
        if margin < wanted:
            gap = f"{show(margin)} < {show(wanted)}, by {show(wanted - margin)}"
            raise NotValidError(f"{where}the margin against {j} is not as claimed: {gap}")


def _check_rival(exact: Exact, record: Record, found: Box, where: str) -> None:
    """(C_y - C_j) z + c_y - c_j < 0 over the box for the rival j."""
    rival = record.rival
    if rival >= exact.q or rival == record.label:
        raise NotValidError(f"{where}rival {rival} of label {record.label} and {exact.q} outputs")
    _, most, k = exact.margin(record.label, rival, found)
    if most >= 0:
        margin = show(Fraction(most, 2 << k))
        raise NotValidError(f"{where}the margin against {rival} may be {margin}, not below 0")


def _at(rows: Iterator[_T], what: str) -> Callable[[int], _T]:
    """Row k of what can only be read in turn; asked for increasing k."""
    numbered = enumerate(rows)

    def at(k: int) -> _T:
        for index, row in numbered:
            if index == k:
                return row
        raise NotValidError(f"the {what} ends before row {k}")

    return at


def _count(report: Report, record: Record) -> None:
    proved = record.kind in (STATE_BOX, TREE)
    report.certificates += proved
    report.trees += record.kind == TREE
    report.witnesses += not proved
    report.backing[record.row] = proved, record.label, record.eps
    if record.eps is not None:
        least, greatest = report.radii or (record.eps, record.eps)
        report.radii = min(least, record.eps), max(greatest, record.eps)


def _check_sample(record: Record, x: Sequence[float], sample: Sample) -> None:
    row, (stored, label) = record.row, sample
    for j, (a, b) in enumerate(zip(x, stored, strict=True)):
        if a.hex() != b.hex():
            raise NotValidError(f"row {row}: input {j} is {a!r}, in the data set {b!r}")
    if label != record.label:
        raise NotValidError(f"row {row}: label {record.label}, in the data set {label}")


def _check_verdicts(report: Report, path: Path, claim: Claim) -> None:
    count = {"certified": 0, "falsified": 0}
    for status, row, label, eps in read_decided(path, claim):
        proved, what = status == "certified", "certificate" if status == "certified" else "witness"
        backing = report.backing.get(row)
        if backing is None or backing[0] != proved:
            raise NotValidError(f"row {row} is called {status} in {path} without a {what}")
        if backing[1] != label or (eps is not None and backing[2] != eps):
            raise NotValidError(
                f"row {row} is called {status} in {path} for label {label}, eps {eps}; its"
                f" {what} is for label {backing[1]}, eps {backing[2]}"
            )
        count[status] += 1
    report.certified, report.falsified = count["certified"], count["falsified"]
