"""What stands beside numbers: the machine that they depend on, and how they are written."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch


def as_json(numbers: dict[str, Any]) -> str:
    """The text of a results.json."""
    return json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


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
