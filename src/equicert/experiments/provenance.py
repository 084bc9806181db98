"""What stands beside numbers: the machine that they depend on, and how they are written."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from equicert.checkpoints import describe_domain
from equicert.data import DataSet
from equicert.experiments.reports import Request
from equicert.runs import versions


def as_json(numbers: dict[str, Any]) -> str:
    """The text of a results.json."""
    return json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def asked(experiment: str, request: Request) -> dict[str, Any]:
    """The first entries of a results.json: what was asked for, and when."""
    return {
        "experiment": experiment,
        "created": request.created,
        "command": request.command,
        "quick": request.quick,
    }


def described(data: DataSet, samples: int) -> dict[str, Any]:
    """The data set, and how many test samples were used."""
    return {
        "name": data.name,
        "digest": data.digest,
        "training_samples": len(data.x_train),
        "samples": samples,
        "domain": describe_domain(data.domain),
    }


def surroundings(threads: int | None) -> dict[str, Any]:
    """The last entries: the machine and the versions of the software."""
    return {"machine": machine(threads), "versions": versions()}


def machine(threads: int | None) -> dict[str, Any]:
    """The processor's name, the number of logical cores, and the threads that torch was given."""
    return {
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "threads": torch.get_num_threads() if threads is None else threads,
    }


def _processor() -> str:
    """As Linux calls it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown")
