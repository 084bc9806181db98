"""`python -m benchmarks`: measure, then write speed.json, speed.png and the page performance.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import (
    bounding,
    certificates,
    convolutions,
    deciding,
    lipschitz,
    memory,
    scaling,
    slow,
    solves,
    step,
    subjects,
    verdicts,
)
from benchmarks.page import page
from benchmarks.picture import speed_picture
from equicert.data import DataSet, load_data
from equicert.experiments.provenance import as_json, machine
from equicert.network import ImplicitNetwork
from equicert.runs import versions, write_atomic
from equicert.training import thread_count

SECTIONS: Final = (
    "step",
    "lipschitz",
    "verdicts",
    "certificates",
    "deciding",
    "bounding",
    "solves",
    "scaling",
    "slow",
    "memory",
    "convolutions",
)
_OUT: Final = "docs/results"
_PAGE: Final = "docs/performance.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sections that the command line names and write their outcome."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    results = {
        "command": shlex.join(["python", "-m", "benchmarks", *given]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(1),
    }
    with thread_count(1):
        results |= run(options)
    out = Path(options.out)
    if options.keep:
        results = kept(json.loads((out / "speed.json").read_text("utf-8")), results, options.only)
    default = _PAGE if options.out == _OUT else out / "performance.md"
    write(results, out, Path(options.page or default))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every number of the sections, and what they are of."""
    began = time.perf_counter()
    data, rounds = load_data(options.data, options.data_dir), options.rounds
    settings: dict[str, Any] = {
        "data": {"name": data.name, "digest": data.digest, "inputs": data.inputs},
        "seed": subjects.SEED,
        "rounds": rounds,
    }
    compared = certificates.of_checker(options.data, options.data_dir)
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "deciding": lambda: deciding.measure(data, compared),
        "bounding": lambda: bounding.measure(
            data, -(-rounds // 10), options.budget, options.device
        ),
        "convolutions": lambda: convolutions.measure(
            data, Path(options.work), -(-rounds // 8), 10 * options.budget
        ),
    }
    if not set(options.only) <= set(sections):
        _say(began, f"a robust network, {options.epochs} epochs, or the one of an earlier run")
        config = subjects.robust(options.epochs)
        network, training = subjects.trained(data, config, Path(options.work))
        sections |= _of_network(network, data, options, compared)
        stored = network.store()
        settings |= {
            "epochs": options.epochs,
            "training_seconds": training,
            "model_digest": stored.digest,
            "contraction_rate": stored.contraction.rate,
            "hidden": stored.states,
        }
    results: dict[str, Any] = {"settings": settings}
    for name in options.only:
        _say(began, name)
        load = os.getloadavg()[0]
        results[name] = sections[name]() | {"load": load}
    _say(began, "done")
    return results | {"seconds": time.perf_counter() - began}


def _of_network(
    network: ImplicitNetwork, data: DataSet, options: argparse.Namespace, compared: Sequence[str]
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The sections that measure the robust network."""
    stored, rounds, budget = network.store(), options.rounds, options.budget
    work = Path(options.work)
    return {
        "step": lambda: step.measure(network, data, rounds, 5 * budget),
        "lipschitz": lambda: lipschitz.measure(data, work, rounds, 5 * budget),
        "verdicts": lambda: verdicts.measure(stored, data, -(-rounds // 5), 10 * budget),
        "certificates": lambda: certificates.measured(
            stored, data, compared, work, -(-rounds // 10)
        ),
        "solves": lambda: solves.measure(network, data, work, rounds, 2 * budget),
        "scaling": lambda: scaling.measure(network, data, rounds, budget),
        "slow": lambda: slow.measure(stored, rounds, budget),
        "memory": lambda: memory.measure(network, data),
    }


def kept(older: dict[str, Any], results: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The older results with the sections of a later run, which say that they are of one."""
    about = {key: results[key] for key in ("command", "created", "versions")}
    return older | {name: results[name] | {"run": about} for name in only}


def write(results: dict[str, Any], out: Path, to: Path) -> None:
    """speed.json, and speed.png where cost against size was measured, into out; and the page."""
    out.mkdir(parents=True, exist_ok=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "speed.json", as_json(results))
    if "scaling" in results:
        write_atomic(out / "speed.png", speed_picture(results["scaling"]))
    write_atomic(to, page(results, Path(os.path.relpath(out, to.parent)).as_posix()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_names, default=SECTIONS, help=f"of {','.join(SECTIONS)}")
    parser.add_argument(
        "--keep", action="store_true", help="the other sections of the speed.json that is there"
    )
    parser.add_argument("--out", default=_OUT, help="folder of speed.json and speed.png")
    parser.add_argument("--page", help=f"default {_PAGE}, or in the folder --out names")
    parser.add_argument("--rounds", type=int, default=40, help="of the fastest contestants")
    parser.add_argument(
        "--budget",
        type=float,
        default=4.0,
        help="seconds a row of the scaling",
    )
    parser.add_argument("--epochs", type=int, default=40, help="of the network that is measured")
    parser.add_argument("--device", default="cpu", help="of dual bounds and nodes")
    parser.add_argument("--work", default="runs/bench", help="keeps the trained network")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", help="where mnist/ lies; default $EQUICERT_DATA_DIR")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(sorted(unknown))}")
    return names


def _say(began: float, what: str) -> None:
    sys.stderr.write(f"{time.perf_counter() - began:6.1f} s  {what}\n")


if __name__ == "__main__":
    main()
