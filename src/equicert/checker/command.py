"""The command: parse, check, say one line. Status 0: all valid; 1: not valid; 2: not readable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from equicert.checker.check import Report, check_folder
from equicert.checker.files import NotValidError, UnreadableError, one_line

_PROGRAM = "equicert check"
_DESCRIPTION = """Check certificates in exact arithmetic: that each input of each box provably has
its label, and of each witness that another class has the greater output there, for the network with
exactly the stored weights. It shares no code with the program that wrote them. Exit status 0: all
are valid; 1: something claimed does not hold; 2: a file cannot be read."""


class _Parser(argparse.ArgumentParser):
    """Errors on one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(message))


# What a hostile file may still cause: nothing is decided.
_REFUSED = (UnreadableError, OSError, ValueError, ArithmeticError, MemoryError, RecursionError)


def main(argv: Sequence[str] | None = None) -> int:
    """Check what the words of a command line name; return the exit status."""
    parser = _Parser(_PROGRAM, description=_DESCRIPTION)
    parser.add_argument("folder", type=Path, help="where `certify --certificates` wrote them")
    parser.add_argument("--model", type=Path, required=True, help="a .safetensors or .npz file")
    parser.add_argument("--activation", help="needed where an npz file does not name it")
    parser.add_argument(
        "--data",
        help="compare inputs and labels with the data set: mnist, a folder with MNIST's test files,"
        " or an npz file with x_test and y_test",
    )
    parser.add_argument(
        "--verdicts",
        type=Path,
        help="a verdicts.jsonl whose every 'certified' must have its certificate, and every"
        " 'falsified' its witness (default: that of the folder, if there is one)",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of what is valid")
    given = parser.parse_args(argv)
    try:
        report = check_folder(
            given.folder, given.model, given.activation, given.data, given.verdicts
        )
    except NotValidError as error:
        sys.stdout.write(f"not valid: {one_line(error)}\n")
        return 1
    except _REFUSED as error:
        return _complain(error)
    if not given.quiet:
        sys.stdout.write(summary(report) + "\n")
    return 0


def _complain(error: object) -> int:
    sys.stderr.write(f"{_PROGRAM}: error: {one_line(error)}\n")
    return 2


def summary(report: Report) -> str:
    """One line: what is valid."""
    found = f"{report.certificates} certificates ({report.trees} of them trees)"
    parts = [f"valid: {found} and {report.witnesses} witnesses for the model {report.model}"]
    if report.radii is not None:
        least, greatest = report.radii
        parts.append(f"eps {least!r}" if least == greatest else f"eps {least!r} to {greatest!r}")
    if report.domain is None:
        parts.append("no domain")
    else:
        parts.append("domain [{!r}, {!r}]".format(*report.domain))
    if report.compared:
        parts.append("inputs and labels are those of the data set")
    if report.certified is not None:
        parts.append(f"{report.certified} verdicts 'certified', each with its certificate")
    if report.falsified:
        parts.append(f"{report.falsified} verdicts 'falsified', each with its witness")
    if report.dropped:
        parts.append("a last record was cut short and is left out")
    return ", ".join(parts)
