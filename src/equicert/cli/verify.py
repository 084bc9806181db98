"""`equicert verify`: properties of networks, both in files."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from equicert.cli.options import VerifyOptions
from equicert.errors import InputError

if TYPE_CHECKING:
    from equicert.instances import Outcome

_ABOUT = "verdicts are about real arithmetic on the weights as stored, not about a program"


def run_verify(options: VerifyOptions) -> None:
    """Decide one property and print the verdict, or run a benchmark.

    Raises:
        InputError: a file or an option that cannot be used.
        NotContractingError: the network has no proof of a unique fixed point.
        OutputError: the results cannot be written, or are those of another benchmark.
    """
    from equicert.cli.commands import set_threads

    set_threads(options.threads)
    seconds = math.inf if options.timeout is None else options.timeout
    if not seconds > 0:
        raise InputError(f"timeout must be a positive number of seconds, got {options.timeout}")
    match (options.network, options.property, options.instances, options.out):
        case (str() as network, str() as prop, None, None):
            _verify_one(network, prop, seconds, options.activation)
        case (None, None, str() as source, str() as out):
            _run_instances(source, out, seconds, options.activation)
        case _:
            raise InputError("verify needs --network and --property, or --instances and --out")


def _verify_one(network: str, prop: str, seconds: float, activation: str | None) -> None:
    from equicert.instances import counterexample_text
    from equicert.verification import load_network, verify
    from equicert.vnnlib import load_property

    loaded, stated = load_network(Path(network), activation), load_property(Path(prop))
    found = verify(loaded.network, stated, seconds, loaded.scale)
    sys.stdout.write(counterexample_text(found))
    _log(f"{found.result.value}{f' ({found.reason})' if found.reason else ''}; {_ABOUT}")


def _run_instances(source: str, out: str, seconds: float, activation: str | None) -> None:
    from equicert.instances import run_instances

    def report(done: int, total: int, outcome: Outcome) -> None:
        instance, why = outcome.instance, f" ({outcome.reason})" if outcome.reason else ""
        _log(
            f"{done} of {total}: {instance.network} {instance.property}: {outcome.result}{why},"
            f" {outcome.prepare + outcome.run:.1f} s"
        )

    results = run_instances(source, out, seconds=seconds, activation=activation, report=report)
    counts = ", ".join(f"{count} {word}" for word, count in sorted(Counter(results).items()))
    _log(f"{len(results)} instances in {out}: {counts}; {_ABOUT}")


def _log(text: str) -> None:
    sys.stderr.write(f"equicert: {' '.join(text.split())}\n")
