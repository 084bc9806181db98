"""The five checks of a folder, in their order; checks 2 to 5 are those of `exact.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from equicert.checker.data import Sample, read_samples
from equicert.checker.exact import Exact
from equicert.checker.files import NotValidError
from equicert.checker.folder import Claim, Record, Records, read_certified, read_claim, read_inputs
from equicert.checker.model import read_model

_T = TypeVar("_T")


@dataclass
class Report:
    """What was found valid.

    Attributes:
        model: the digest.
        certificates: how many.
        dropped: whether a last record, cut short, was left out.
        radii: least and greatest eps of the boxes that are given by one; None without any.
        domain: as the folder says it: None, or the least lower and the greatest upper bound.
        compared: whether inputs and labels were compared with the data set.
        certified: the verdicts "certified" that a certificate backs; None where none were given.
    """

    model: str
    domain: tuple[float, float] | None
    compared: bool
    certificates: int = 0
    dropped: bool = False
    radii: tuple[float, float] | None = None
    certified: int | None = None
    backing: dict[int, tuple[int, float | None]] = field(default_factory=dict, repr=False)


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
        verdicts: a verdict file whose every "certified" must have its certificate; by default
            folder/verdicts.jsonl, if there is one.

    Raises:
        NotValidError: something claimed does not hold; the message says what, with numbers.
        UnreadableError: a file is missing, damaged, or not of the format: nothing is decided.
    """
    network = read_model(model, activation)
    claim = read_claim(folder, network)
    exact = Exact(network)
    exact.check_eta(claim.eta)
    for _ in read_inputs(folder, claim, network.r):
        pass  # to the end, where their digest is compared
    domain = None if claim.domain is None else (min(claim.domain[0]), max(claim.domain[1]))
    report = Report(claim.model, domain, data is not None)
    records = Records(folder, network)
    inputs = _at(read_inputs(folder, claim, network.r), "inputs")
    samples = _at(read_samples(data, network.r), "data set") if data is not None else None
    for record in records:
        if record.row >= claim.count:
            raise NotValidError(f"row {record.row} of {claim.count} inputs has a certificate")
        x = inputs(record.row)
        if samples is not None:
            _check_sample(record, x, samples(record.row))
        exact.check_record(record, x, claim)
        _count(report, record)
    report.dropped = records.dropped
    if verdicts is not None or (folder / "verdicts.jsonl").exists():
        report.certified = _check_verdicts(report, verdicts or folder / "verdicts.jsonl", claim)
    return report


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
    report.certificates += 1
    report.backing[record.row] = record.label, record.eps
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


def _check_verdicts(report: Report, path: Path, claim: Claim) -> int:
    count = 0
    for row, label, eps in read_certified(path, claim):
        backing = report.backing.get(row)
        if backing is None:
            raise NotValidError(f"row {row} is called certified in {path} without a certificate")
        if backing[0] != label or (eps is not None and backing[1] != eps):
            raise NotValidError(
                f"row {row} is called certified in {path} for label {label}, eps {eps}; its"
                f" certificate is for label {backing[0]}, eps {backing[1]}"
            )
        count += 1
    return count
