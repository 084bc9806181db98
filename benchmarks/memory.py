"""Peak memory against the number of solver steps: it must not grow with them.

`python -m benchmarks.memory ALPHA TOLERANCE` makes one training step in a process of its own, by
Picard where ALPHA is 0, and prints the solver steps and the most memory that the process held.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.subjects import (
    EPS,
    Batch,
    Steps,
    TrainingStep,
    batches_of,
    count_steps,
    random_network,
    variant,
)
from benchmarks.verdicts import plain
from equicert.bounds import Interval
from equicert.certification import certify
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.solvers import Average, Picard, Solver
from equicert.stored import StoredNetwork

CASES: Final[tuple[tuple[float, float], ...]] = (  # alpha (0: Picard), tolerance
    (0.0, 1e-2),
    (0.0, 1e-4),
    (0.0, 1e-8),
    (0.0, 1e-12),
    (0.1, 1e-9),
    (0.01, 1e-9),
)
_ALONE: Final = (CASES[0], CASES[3], CASES[5])
_TOLERANCES: Final = (1e-2, 1e-4, 1e-7, 1e-10, 1e-12)


class LiveBytes(TorchDispatchMode):
    """Follows the memory of the tensors that are made inside, and keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the call, and note the storages that it returns for the first time."""
        del types
        given = {_key(tensor) for tensor in _tensors((args, tuple((kwargs or {}).values())))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _key(tensor) not in given | self._known:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


class SavedBytes:
    """Counts the memory that autograd keeps for the backward pass, each storage once."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is saved."""
        self._sizes[_key(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())


def measure(
    network: ImplicitNetwork,
    data: DataSet,
    cases: Sequence[tuple[float, float]] = CASES,
    alone: Sequence[tuple[float, float]] = _ALONE,
) -> dict[str, Any]:
    """Bytes of a training step, of a certified batch, and of whole processes, by solver steps."""
    double = variant(network).to(torch.float64)
    batches = batches_of(data, 100, 1, torch.float64)
    return {
        "settings": {"batch": 100, "eps": EPS, "dtype": "float64", "hidden": len(network.b)},
        "training": [_training(double, batches, data, *case) for case in cases],
        "certification": [_certifying(network.store(), data, t) for t in _TOLERANCES],
        "processes": [_process(*case) for case in alone],
    }


def _training(
    network: ImplicitNetwork,
    batches: Sequence[Batch],
    data: DataSet,
    alpha: float,
    tolerance: float,
) -> dict[str, Any]:
    solver = _solver(alpha)
    steps, saved = Steps(), SavedBytes()
    step = TrainingStep(variant(network, solver, tolerance, steps), batches, data)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        step()  # the first one, which makes Adam's own tensors, too
    with LiveBytes() as live:
        step()
    counted = steps.to_json()
    row = 3 * len(network.b) * network.b.element_size()
    return {
        "solver": repr(solver),
        "tolerance": tolerance,
        "steps": counted,
        "saved_bytes": saved.total,
        "peak_bytes": live.peak,
        "unrolled_bytes": round(counted["forward_slowest"]) * len(batches[0][0]) * row,
    }


def _certifying(network: StoredNetwork, data: DataSet, tolerance: float) -> dict[str, Any]:
    """The first thousand test samples by the interval method."""
    x, labels = torch.from_numpy(data.x_test[:1000]), torch.from_numpy(data.y_test[:1000])
    _, steps = plain(network, x, labels, data, tolerance)
    method = Interval(tolerance=tolerance)
    with LiveBytes() as live:
        certify(replace(network), x, labels, EPS, domain=data.domain, method=method)
    return {"tolerance": tolerance, "slowest_steps": steps[0], "peak_bytes": live.peak}


def _process(alpha: float, tolerance: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", str(alpha), str(tolerance)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return json.loads(done.stdout)


def _alone(alpha: float, tolerance: float) -> dict[str, Any]:
    """One training step of a random network on random inputs, and this process's peak."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    x, labels = draw.random((100, 784)), draw.permutation(np.arange(100) % 10)
    data = DataSet("random", x, labels, x[:10], np.arange(10), (0.0, 1.0))
    network = variant(random_network(100, data, torch.float64), _solver(alpha), tolerance)
    steps = count_steps(network, batches_of(data, 100, 1, torch.float64), data)
    return {
        "solver": repr(network.solver),
        "tolerance": tolerance,
        "steps": steps,
        "rss_bytes": most_resident(),
    }


def most_resident() -> int:
    """Bytes of this program; elsewhere than on Linux, perhaps of its parent at the fork."""
    return _status("VmHWM:")


def now_resident() -> int:
    """The same of this moment; elsewhere than on Linux, `most_resident`."""
    return _status("VmRSS:")


def _status(field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _solver(alpha: float) -> Solver:
    return Average(alpha) if alpha else Picard()


def _tensors(value: object) -> Iterator[Tensor]:
    """Those in nested tuples and lists; torch's own `tree_leaves` keeps them alive for a while."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_alone(float(sys.argv[1]), float(sys.argv[2]))) + "\n")
