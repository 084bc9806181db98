"""Ship a model: `python -m benchmarks.zoo NAME MODEL OPTIONS`.

Measures it by `equicert certify` on the whole test split, copies the file into the package, and
enters what was found, with both commands, in the index. CONTRIBUTING.md says when a model is fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from equicert import zoo
from equicert.cli import main as equicert
from equicert.comparison.measurement import stored_entries
from equicert.models import load_model
from equicert.runs import write_atomic
from equicert.zoo import Shipped

MOST_BYTES = 2_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Ship the model that the command line names."""
    options, more = _parser().parse_known_args(arguments)
    contents = Path(options.model).read_bytes()
    if len(contents) >= MOST_BYTES:
        raise SystemExit(f"{options.model} has {len(contents)} bytes; {MOST_BYTES} are too many")
    found = measure(options, more)
    write_atomic(zoo.FOLDER / f"{options.name}.safetensors", contents)
    known = zoo.entries() | {options.name: found}
    index = {name: asdict(known[name]) for name in sorted(known)}
    write_atomic(zoo.FOLDER / zoo.INDEX, json.dumps(index, indent=2, allow_nan=False) + "\n")


def measure(options: argparse.Namespace, more: Sequence[str]) -> Shipped:
    """The entry of the model, its numbers those of `equicert certify` with the options `more`."""
    network = load_model(options.model)
    common = ["--data", options.data, "--eps", str(options.eps), *more]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "certify"
        equicert(["certify", options.model, *common, "--out", str(out), "--quiet"])
        summary = json.loads((out / "summary.json").read_text("utf-8"))
    samples = summary["samples"]
    return Shipped(
        sha256=hashlib.sha256(Path(options.model).read_bytes()).hexdigest(),
        data=options.data,
        structure=options.structure,
        units=network.states,
        activation=network.activation.spec,
        parameters=sum(entry.numel() for entry in stored_entries(network)),
        eps=options.eps,
        samples=samples,
        correct=round(summary["clean_accuracy"] * samples),
        certified=round(summary["certified_accuracy"] * samples),
        method=summary["method"],
        trained=options.trained,
        measured=shlex.join(["equicert", "certify", f"{zoo.PREFIX}{options.name}", *common]),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo",
        description="Ship a model with the package. Further options go to `equicert certify`.",
    )
    parser.add_argument("name", help="the model will be zoo:NAME")
    parser.add_argument("model", help="a .safetensors file of `equicert train`")
    parser.add_argument("--data", required=True, help="as for `equicert certify`")
    parser.add_argument("--eps", type=float, required=True, help="the radius to certify at")
    parser.add_argument("--trained", required=True, help="the command that made the model")
    parser.add_argument("--structure", required=True, help="of W and U, in words")
    return parser


if __name__ == "__main__":
    main()
