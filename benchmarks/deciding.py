"""The complete verifier on samples of a network that others trained, stage by stage."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from benchmarks.certificates import checked
from benchmarks.markdown import count, number, seconds, table
from equicert.bounds import Complete, Dual, complete
from equicert.bounds.sample import Sample
from equicert.certificates import INPUTS
from equicert.certify_run import Certification
from equicert.data import DataSet
from equicert.evaluation import evaluate
from equicert.jobs import Samples
from equicert.models import load_model
from equicert.records import RECORDS
from equicert.stored import StoredNetwork

EPS: Final = 0.05
SAMPLES: Final = 50
_MODEL: Final = Path("networks", "mondeq_mnist_fc40.npz")
_TIMEOUT: Final = 60.0
_STAGES: Final[dict[str, tuple[tuple[object, str], ...]]] = {
    "start: a box for the states": ((complete, "begin"),),
    "dual bound of every margin": ((Dual, "over"),),
    "falsifier": ((complete, "first_witnesses"),),
    "tightening": ((Sample, "bound"), (Sample, "tighten")),
    "branch and bound": ((Sample, "branch"),),
}


class Stages:
    """Seconds in each stage of `Complete`, while this is entered; a stage within one is part of it.

    Attributes:
        cpu, wall: by stage.
        calls: how often each was entered.
    """

    def __init__(self) -> None:
        self.cpu, self.wall = dict.fromkeys(_STAGES, 0.0), dict.fromkeys(_STAGES, 0.0)
        self.calls: Counter[str] = Counter()
        self._inside = False
        self._patches = ExitStack()

    def __enter__(self) -> Stages:
        for stage, places in _STAGES.items():
            for owner, name in places:
                timed = self._timed(stage, getattr(owner, name))
                self._patches.enter_context(patch.object(owner, name, timed))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _timed(self, stage: str, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def timed(*arguments: object, **named: object) -> object:
            if self._inside:
                return function(*arguments, **named)
            self._inside = True
            own, passed = time.process_time(), time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self._inside = False
                self.cpu[stage] += time.process_time() - own
                self.wall[stage] += time.perf_counter() - passed
                self.calls[stage] += 1

        return timed


def measure(data: DataSet, compared: Sequence[str]) -> dict[str, Any]:
    """The network of $EQUICERT_PROBLEMS_DIR on the first test images, or why not."""
    root = os.environ.get("EQUICERT_PROBLEMS_DIR")
    if root is None or not (model := Path(root) / _MODEL).is_file():
        return {"absent": f"$EQUICERT_PROBLEMS_DIR/{_MODEL.as_posix()} is not there"}
    network = load_model(model)
    if (network.inputs, network.outputs) != (data.inputs, data.classes):
        return {"absent": f"{data.name} does not fit {_MODEL.as_posix()}"}
    return decided(network, model, data, SAMPLES, compared)


def decided(
    network: StoredNetwork, model: Path, data: DataSet, samples: int, compared: Sequence[str]
) -> dict[str, Any]:
    """Verdicts of `Complete` with their certificates, which are checked; once.

    Args:
        network: at hand.
        model: its file.
        data: whose test samples are decided.
        samples: the first so many of them.
        compared: words for the checker, by which it finds the data set.
    """
    asked = Samples.of(data, network, samples, data.domain)
    with tempfile.TemporaryDirectory() as folder, Stages() as stages:
        own, passed = time.process_time(), time.perf_counter()
        method = Complete(timeout=_TIMEOUT)
        evaluate(Certification(method, EPS), network, asked, certificates=Path(folder))
        cpu, wall = time.process_time() - own, time.perf_counter() - passed
        size = {name: (Path(folder) / name).stat().st_size for name in (RECORDS, INPUTS)}
        text = (Path(folder) / "verdicts.jsonl").read_text("utf-8")
        found = checked(Path(folder), model, compared)
    lines = [json.loads(line) for line in text.splitlines()]
    nodes = [line.get("nodes", 0) for line in lines]
    return {
        "settings": {
            "model": model.name,
            "hidden": network.states,
            "eps": EPS,
            "timeout": _TIMEOUT,
            "samples": len(lines),
        },
        "statuses": Counter(line["status"] for line in lines),
        "methods": Counter(line["method"] for line in lines if line["status"] == "certified"),
        "cpu": cpu,
        "wall": wall,
        "stages": {
            stage: {"cpu": stages.cpu[stage], "wall": stages.wall[stage]} for stage in _STAGES
        },
        "searched": stages.calls["branch and bound"],
        "nodes": sum(nodes),
        "most_nodes": max(nodes, default=0),
        "record_bytes": size[RECORDS],
        "input_bytes": size[INPUTS],
        **found,
    }


def deciding_section(found: dict[str, Any]) -> list[str]:
    """The tables of what `measure` returned."""
    title = "## Deciding every sample"
    if "absent" in found:
        return [title, "", f"Not measured: {found['absent']}."]
    settings, statuses = found["settings"], found["statuses"]
    samples = settings["samples"]
    said = ", ".join(f"{count(number)} {status}" for status, number in statuses.items())
    by = ", ".join(f"{count(number)} by {method}" for method, number in found["methods"].items())
    records = statuses.get("certified", 0) + statuses.get("falsified", 0)
    stages = {**found["stages"], "all, certificates written": found}
    checking = found["check_cpu_seconds"]
    rate = number(records / checking)
    return [
        title,
        "",
        (
            f"`--method complete` on `{settings['model']}`, n = {settings['hidden']}, the first"
            f" {samples} test images at eps = {settings['eps']:g}, {settings['timeout']:g} s a"
            f" sample at most, one run: {said}. Certified were {by or 'none'}. Branch and bound"
            f" was asked about {found['searched']} samples; {count(found['nodes'])} subproblems"
            f" were bounded in all, {count(found['most_nodes'])} at most for one sample."
        ),
        "",
        *table(
            ("stage", "CPU", "wall", "CPU a sample"),
            [
                (name, seconds(t["cpu"]), seconds(t["wall"]), seconds(t["cpu"] / samples))
                for name, t in stages.items()
            ],
        ),
        "",
        (
            f"The {records} certificates and witnesses take {count(found['record_bytes'])} bytes,"
            f" {count(round(found['record_bytes'] / max(records, 1)))} each, and"
            f" {count(found['input_bytes'])} for the inputs. `python -I -S src/equicert/checker`"
            f" takes {seconds(checking)} of CPU for them, {rate} a second, and"
            f" finds {'all of them valid' if found['valid'] else 'one that is NOT valid'}."
        ),
    ]
