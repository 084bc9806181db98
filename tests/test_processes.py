"""Several processes find what one finds, in order, and an end of one of them is an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small_networks
from equicert.attack_run import AttackRun
from equicert.attacks import FGSM
from equicert.bounds import Auto, Interval, Method
from equicert.certify_run import Certification
from equicert.checker import check_folder
from equicert.errors import EquicertError, InputError
from equicert.evaluation import evaluate_lines
from equicert.jobs import Samples
from equicert.models import save_model
from equicert.processes import batch_for, chunks_of
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork
from searches import stored

NETWORK = stored(small_networks.contracting(3, 6))


def samples(count: int) -> Samples:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.uniform(size=(count, NETWORK.inputs)))
    y = torch.tensor(rng.integers(NETWORK.outputs, size=count))
    return Samples(x, y, None, "drawn", "0" * 64)


def test_batches_leave_no_process_idle() -> None:
    assert batch_for(100, 1000, 1) == 100
    assert batch_for(100, 100, 2) == 13
    assert batch_for(100, 10_000, 2) == 100
    assert batch_for(100, 1, 8) == 1
    with pytest.raises(InputError, match="processes must be at least 1, got 0"):
        batch_for(100, 100, 0)


def test_two_find_what_one_finds(tmp_path: Path) -> None:
    """Verdicts, their order, valid certificates; and --resume goes on after them."""
    given = samples(21)
    job = Certification(Auto(timeout=20.0, total=300.0), 0.25)
    alone = evaluate_lines(job, NETWORK, given)
    folder = tmp_path / "proofs"
    together = evaluate_lines(job, NETWORK, given, processes=2, certificates=folder)
    for one, other in zip(alone.lines, together.lines, strict=True):
        for key in ("index", "status", "label", "predicted", "method"):
            assert one[key] == other[key]
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-6)
    assert len({line["status"] for line in alone.lines}) > 1
    save_model(tmp_path / "model.safetensors", NETWORK)
    report = check_folder(folder, tmp_path / "model.safetensors")
    assert report.certified == sum(line["status"] == "certified" for line in together.lines) > 0
    lines = (folder / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (folder / "verdicts.jsonl").write_text("".join(lines[:4]))
    again = evaluate_lines(job, NETWORK, given, processes=2, certificates=folder, resume=True)
    found = [
        json.loads(line)["status"] for line in (folder / "verdicts.jsonl").read_text().splitlines()
    ]
    assert found == [line["status"] for line in again.lines]
    assert found == [line["status"] for line in alone.lines]
    check_folder(folder, tmp_path / "model.safetensors")


def test_no_time_left_is_said_of_each() -> None:
    job = Certification(Auto(total=1e-9), 0.25)
    found = evaluate_lines(job, NETWORK, samples(6), processes=2)
    assert {line["reason"] for line in found.lines if line["status"] == "unknown"} == {"timeout"}


@dataclass(frozen=True)
class Ending(Method):
    """A method whose process does not survive it."""

    name = "ending"

    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        del network, query
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_process_that_ends_is_an_error() -> None:
    job = Certification(Ending(), 0.25)
    with pytest.raises(EquicertError, match="a process ended before its work was done"):
        list(chunks_of(job, NETWORK, samples(4), 1, 2))


SCRIPT = """
import torch
from equicert.bounds import Auto
from equicert.certify_run import Certification
from equicert.jobs import Samples
from equicert.models import load_model
from equicert.processes import chunks_of

if __name__ == "__main__":
    network = load_model("model.safetensors")
    x = torch.zeros(10_000, network.inputs, dtype=torch.float64)
    given = Samples(x, torch.zeros(len(x), dtype=torch.int64), None, "zeros", "0" * 64)
    for _ in chunks_of(Certification(Auto(), 0.25), network, given, 1, 2):
        print("one", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc of Linux")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", NETWORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"one\n"
        found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        workers = [Path(f"/proc/{child}") for child in found]
        parent.kill()
    assert len(workers) >= 2
    limit = time.monotonic() + 30
    while any(_runs(worker) for worker in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(_runs(worker) for worker in workers)


def _runs(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_errors_are_those_of_one_process() -> None:
    given = samples(4)
    given = replace(given, x=given.x + torch.nan)
    job = Certification(Interval(), 0.25)
    for processes in (1, 2):
        with pytest.raises(InputError, match="NaN"):
            list(chunks_of(job, NETWORK, given, 2, processes))


def test_attacks_work_in_one_process() -> None:
    job = AttackRun(FGSM(), 0.25)
    with pytest.raises(InputError, match="attack works in one process"):
        list(chunks_of(job, NETWORK, samples(2), 1, 2))
