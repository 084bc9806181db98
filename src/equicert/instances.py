"""Benchmarks in the form of VNN-COMP: a table of networks, properties and time limits.

`instances.csv` has a line `onnx,vnnlib,timeout` an instance, files named relative to it.
`results.csv` has a line `category,onnx,vnnlib,prepare time,result,run time`, no header, in the same
order, each complete before the next instance begins: a run that was stopped continues behind them.
Counterexamples lie beside it, in the folder `counterexamples`.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

from equicert.compressed import read_file
from equicert.errors import EquicertError, InputError, OutputError
from equicert.onnx_models import OnnxNetwork
from equicert.runs import Appended, reporting, write_atomic
from equicert.verification import Result, Verification, load_network, verify
from equicert.vnnlib import load_property

COUNTEREXAMPLES = "counterexamples"
ERROR = "error"
_FIELDS = 6  # of a line of results
# Whatever goes wrong with one instance is that instance's error.
_FAILURES = (EquicertError, MemoryError, RuntimeError, OSError)


@dataclass(frozen=True)
class Instance:
    """A line of instances.csv.

    Attributes:
        network, property: as they are named there.
        seconds: the time limit.
    """

    network: str
    property: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A line of results.csv, and why it says what it says."""

    instance: Instance
    result: str  # of `Result`, or "error"
    prepare: float
    run: float
    reason: str = ""


def read_instances(path: str | Path) -> list[Instance]:
    """The instances of a benchmark, in order.

    Raises:
        InputError: the file cannot be read, or a line is not `onnx,vnnlib,seconds`.
    """
    path = Path(path)
    try:
        rows = list(csv.reader(io.StringIO(read_file(path).decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table in text: {error}") from error
    found = []
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        fields = [field.strip() for field in row]
        if len(fields) != 3 or not all(fields) or not _seconds(fields[2]) > 0:
            raise InputError(
                f"{path}, line {number} is '{','.join(row)[:80]}'; a line is onnx,vnnlib,seconds"
            )
        found.append(Instance(fields[0], fields[1], _seconds(fields[2])))
    if not found:
        raise InputError(f"{path} has no instance; a line is onnx,vnnlib,seconds")
    return found


def run_instances(
    source: str | Path,
    out: str | Path,
    *,
    seconds: float = math.inf,
    activation: str | None = None,
    report: Callable[[int, int, Outcome], None] | None = None,
) -> list[str]:
    """Verify every instance of a benchmark that `out` has no line of, and add its line.

    Args:
        source: instances.csv.
        out: results.csv.
        seconds: at most for each instance, whatever its own limit is.
        activation: of .npz networks that do not name theirs.
        report: called after each instance with the number done, of all, and what was found.

    Returns:
        The result of every instance.

    Raises:
        InputError: as `read_instances`.
        OutputError: `out` cannot be written, or has lines of other instances.
    """
    source, out = Path(source), Path(out)
    instances = read_instances(source)
    category = source.resolve().parent.name
    results = _kept(out, category, instances)
    loaded: dict[str, OnnxNetwork] = {}
    with reporting(out, "write"):
        stream = out.open("ab")
    with Appended(out, stream) as lines:
        for number, instance in enumerate(instances[len(results) :], len(results)):
            limit = min(seconds, instance.seconds)
            outcome, found = _run(source.parent, instance, limit, activation, loaded)
            if found is not None and found.counterexample is not None:
                names = (Path(instance.network).stem, Path(instance.property).stem)
                name = "_".join((f"{number:04d}", *names, "sat.txt"))
                write_atomic(_folder(out.parent) / name, counterexample_text(found))
            lines.write(_line(category, outcome).encode())
            results.append(outcome.result)
            if report is not None:
                report(number + 1, len(instances), outcome)
    return results


def counterexample_text(found: Verification) -> str:
    """The verdict's word, and behind `sat` the point, in the form of VNN-COMP.

    Inputs are written exactly, as decimals of all their digits, or as the quotient of two whole
    numbers where they have infinitely many; outputs to 17 digits.
    """
    lines = [found.result.value]
    point = found.counterexample
    if point is not None:
        pairs = [f"(X_{i} {_decimal(v)})" for i, v in enumerate(point.x)]
        pairs += [f"(Y_{j} {v!r})" for j, v in enumerate(point.y)]
        lines.append("(" + "\n".join(pairs) + ")")
    return "\n".join(lines) + "\n"


def _run(
    folder: Path,
    instance: Instance,
    seconds: float,
    activation: str | None,
    loaded: dict[str, OnnxNetwork],
) -> tuple[Outcome, Verification | None]:
    """One instance; the network stays loaded for the next one."""
    begin = ready = time.monotonic()
    try:
        if instance.network not in loaded:
            loaded.clear()
            loaded[instance.network] = load_network(folder / instance.network, activation)
        network = loaded[instance.network]
        prop = load_property(folder / instance.property)
        ready = time.monotonic()
        found = verify(network.network, prop, seconds, network.scale)
        result, reason = found.result.value, found.reason
    except _FAILURES as error:
        found, result, reason = None, ERROR, str(error) or type(error).__name__
    end = time.monotonic()
    return Outcome(instance, result, ready - begin, end - ready, reason), found


def _kept(out: Path, category: str, instances: list[Instance]) -> list[str]:
    """The results that are there already; a last line that was cut short is dropped.

    Raises:
        OutputError: a line is not that of the instance in its place.
    """
    with reporting(out, "read"):
        contents = out.read_bytes() if out.exists() else b""
    whole = contents[: contents.rfind(b"\n") + 1]
    words = {result.value for result in Result} | {ERROR}
    results = []
    try:
        rows = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise OutputError(f"{out} is no table of results; choose another file") from error
    for number, row in enumerate(rows):
        asked = instances[number] if number < len(instances) else None
        if (
            asked is None
            or row[:3] != [category, asked.network, asked.property]
            or len(row) != _FIELDS
            or row[4] not in words
        ):
            raise OutputError(
                f"{out}, line {number + 1} is no result of the instance in its place; it belongs to"
                " another benchmark: choose another file"
            )
        results.append(row[4])
    if whole != contents:
        write_atomic(out, whole)
    return results


def _folder(beside: Path) -> Path:
    folder = beside / COUNTEREXAMPLES
    with reporting(folder, "write"):
        folder.mkdir(exist_ok=True)
    return folder


def _line(category: str, outcome: Outcome) -> str:
    instance, times = outcome.instance, [f"{t:.3f}" for t in (outcome.prepare, outcome.run)]
    text = io.StringIO()
    row = [category, instance.network, instance.property, times[0], outcome.result, times[1]]
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _seconds(text: str) -> float:
    """The number; NaN if it is none, or not finite."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _decimal(value: Fraction) -> str:
    """All digits of the value."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"(/ {value.numerator} {value.denominator})"
    # Exact: a context of as many digits as the quotient has.
    with localcontext(prec=max(1, len(str(value.numerator))) + value.denominator.bit_length() + 1):
        return f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
