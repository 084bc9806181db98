"""What certificates cost, and whether each is valid: `python -m benchmarks.certificates MODEL`.

Certifies a test split with and without certificates, in turn, and has every certificate checked
by `python -I -S src/equicert/checker`, which shares no code with what wrote it. Writes
certificates.json and the page certificates.md; ends with an error where one is not valid.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.markdown import count, number, seconds, table
from benchmarks.subjects import EPS
from benchmarks.verdicts import plain
from equicert.bounds import Interval
from equicert.certificates import INPUTS
from equicert.certify_run import Certification
from equicert.data import DataSet, load_data
from equicert.evaluation import evaluate
from equicert.experiments.provenance import as_json, machine
from equicert.jobs import Samples
from equicert.models import load_model, save_model
from equicert.records import RECORDS
from equicert.runs import versions, write_atomic
from equicert.stored import StoredNetwork
from equicert.training import thread_count

CHECKER: Final = Path(__file__).parents[1] / "src" / "equicert" / "checker"
PLAIN_TOLERANCE: Final = 1e-9
_SECTION: Final = 1000  # samples of the section of performance.md
_HEADER: Final = (
    "model",
    "certified",
    "checked valid",
    "verdicts alone",
    "with certificates",
    "bytes each",
    "bytes of inputs",
    "checking, CPU",
    "checked a second",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line names; return 1 where a certificate is not valid."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    data = load_data(options.data, options.data_dir)
    data = few(data, options.limit)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.certificates", *given]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(1),
        "data": {"name": data.name, "digest": data.digest, "samples": len(data.x_test)},
        "eps": EPS,
        "models": [],
    }
    compared = of_checker(options.data, options.data_dir)
    with thread_count(1):
        for path in options.models:
            results["models"].append(measure(path, data, compared, options.rounds))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "certificates.json", as_json(results))
    write_atomic(out / "certificates.md", page(results))
    return int(any(not found["valid"] for found in results["models"]))


def of_checker(spec: str, data_dir: str | None) -> list[str]:
    """The words by which the checker compares inputs and labels; it cannot read digits."""
    if spec == "digits":
        return []
    root = data_dir or os.environ.get("EQUICERT_DATA_DIR", ".")
    return ["--data", str(Path(root) / "mnist") if spec == "mnist" else spec]


def few(data: DataSet, samples: int | None) -> DataSet:
    """The same with the first so many test samples only."""
    if samples is None:
        return data
    return replace(data, x_test=data.x_test[:samples], y_test=data.y_test[:samples])


def measured(
    network: StoredNetwork, data: DataSet, compared: Sequence[str], work: Path, rounds: int
) -> dict[str, Any]:
    """`measure` for a network at hand and the first test samples: the section of the page."""
    path = work / "robust" / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, network)
    return measure(path, few(data, _SECTION), compared, rounds)


def certificates_section(found: dict[str, Any]) -> list[str]:
    """The section of performance.md."""
    return [
        "## Certificates",
        "",
        (
            f"The first {count(found['samples'])} test samples at eps = {EPS:g}: wall times of the"
            " verdicts, of verdicts and certificates, which is mostly the compression of the"
            " inputs, once a folder, and CPU time of the check by `python -I -S"
            " src/equicert/checker`, its start included. [certificates.md](results/certificates.md)"
            " has all test samples."
        ),
        "",
        *table(_HEADER, [_row(found)]),
        "",
        *table(
            ("", "aim", "measured"),
            [
                ("checked a second", ">= 20", _per_second(found)),
                ("bytes each", "<= 4 096", count(round(found["bytes_each"]))),
            ],
        ),
    ]


def measure(model: Path, data: DataSet, compared: Sequence[str], rounds: int) -> dict[str, Any]:
    """Certificates of one model: written, checked, and what a plain evaluation says beside them.

    Args:
        model: the file.
        data: whose test split is certified.
        compared: words for the checker, by which it finds the data set.
        rounds: how often both ways of writing are timed.
    """
    network = load_model(model)
    with tempfile.TemporaryDirectory() as folder:
        times = _written(network, data, Path(folder), rounds)
        proofs = Path(folder) / f"with-{rounds - 1}"
        size = {name: (proofs / name).stat().st_size for name in (RECORDS, INPUTS)}
        lines = (proofs / "verdicts.jsonl").read_text().splitlines()
        found = [json.loads(line)["status"] == "certified" for line in lines]
        said = checked(proofs, model, compared)
    rigorous = torch.tensor(found)
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    held, _ = plain(network, x, y, data, PLAIN_TOLERANCE)
    certified = int(rigorous.sum())
    return {
        "model": model.parent.name,
        "digest": network.digest,
        "n": network.states,
        "samples": len(lines),
        "certified": certified,
        "seconds": times,
        "bytes_each": (size[RECORDS] - 16) / max(certified, 1),
        "bytes_of_inputs": size[INPUTS],
        "plain": int(held.sum()),
        "plain_only": int((held & ~rigorous).sum()),
        "rigorous_only": int((rigorous & ~held).sum()),
        **said,
    }


def _written(network: StoredNetwork, data: DataSet, folder: Path, rounds: int) -> dict[str, float]:
    """Medians of the seconds of runs that write verdicts alone, and certificates as well."""
    samples = Samples.of(data, network, None, data.domain)
    times: dict[str, list[float]] = {"without": [], "with": []}
    for k in range(-1, rounds):  # the first round is not measured
        for name, made in times.items():
            fresh = replace(network)  # as it was loaded: nothing proved or hashed before
            out = folder / f"{name}-{k}"
            places = (out, None) if name == "without" else (None, out)
            began = time.perf_counter()
            evaluate(
                Certification(Interval(), EPS),
                fresh,
                samples,
                out=places[0],
                certificates=places[1],
            )
            if k >= 0:
                made.append(time.perf_counter() - began)
    return {name: statistics.median(made) for name, made in times.items()}


def checked(proofs: Path, model: Path, compared: Sequence[str]) -> dict[str, Any]:
    """What the checker says, in an interpreter of its own without installed packages."""
    command = [sys.executable, "-I", "-S", str(CHECKER), str(proofs), "--model", str(model)]
    command += compared
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(  # noqa: S603 - this very interpreter, and a file of this project
        command, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "valid": ran.returncode == 0,
        "said": (ran.stdout + ran.stderr).strip(),
        "check_seconds": time.perf_counter() - began,
        "check_cpu_seconds": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
    }


def page(results: dict[str, Any]) -> str:
    """The page of what `main` measured."""
    data = results["data"]
    rows = [_row(found) for found in results["models"]]
    plain_header = ("model", "plain", "rigorous", "plain only", "rigorous only", "share lost")
    plain_rows = [
        (
            found["model"],
            *(count(found[key]) for key in ("plain", "certified", "plain_only", "rigorous_only")),
            f"1 in {found['samples'] / found['plain_only']:.0f}" if found["plain_only"] else "0",
        )
        for found in results["models"]
    ]
    lines = [
        "# Certificates, written and checked",
        "",
        (
            f"`{results['command']}`, {results['created']}, {results['machine']['processor']}, one"
            f" thread. {count(data['samples'])} test samples of {data['name']}, eps ="
            f" {results['eps']:g}, boxes clipped to the domain, certificate (14). Every one was"
            " checked by `python -I -S src/equicert/checker`: exact arithmetic, nothing installed."
        ),
        "",
        *table(_HEADER, rows),
        "",
        "The time with certificates includes the compression of all inputs, once a folder.",
        "",
        (
            "What rigour costs: the same box bounds in plain float64, Picard to"
            f" {PLAIN_TOLERANCE:g}, nothing rounded outwards and nothing proved (*plain*), beside"
            " what is certified."
        ),
        "",
        *table(plain_header, plain_rows),
        "",
        "What the checker said:",
        "",
        *(f"- {found['model']}: {found['said']}" for found in results["models"]),
    ]
    return "\n".join(lines) + "\n"


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    spent, certified = found["seconds"], found["certified"]
    overhead = 100 * (spent["with"] / spent["without"] - 1)
    return (
        found["model"],
        f"{count(certified)} of {count(found['samples'])}",
        "all" if found["valid"] else "NO",
        seconds(spent["without"]),
        f"{seconds(spent['with'])} ({overhead:+.0f} %)",
        count(round(found["bytes_each"])),
        count(found["bytes_of_inputs"]),
        seconds(found["check_cpu_seconds"]),
        _per_second(found),
    )


def _per_second(found: dict[str, Any]) -> str:
    return number(found["certified"] / found["check_cpu_seconds"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certificates", description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", help=".safetensors files")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", help="where mnist/ lies; default $EQUICERT_DATA_DIR")
    parser.add_argument("--limit", type=int, help="only the first so many test samples")
    parser.add_argument("--rounds", type=int, default=5, help="runs that are timed, of each kind")
    parser.add_argument("--out", default="docs/results", help="of certificates.md and .json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
