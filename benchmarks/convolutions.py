"""A convolutional network of 5096 states: by its operator, as a matrix, by the average iteration.

`python -m benchmarks.convolutions FILE` makes the call that FILE holds in a process of its own, and
prints the memory that the process held.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import torch

from benchmarks.memory import most_resident, now_resident
from benchmarks.subjects import (
    EPS,
    KAPPA,
    SEED,
    TOLERANCE,
    Network,
    TrainingStep,
    batches_of,
    count_steps,
    random_network,
    trained,
    trained_network,
    variant,
)
from benchmarks.timing import Timing, interleaved
from equicert.bounds import Interval
from equicert.bounds.base import StateBoxMethod
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.certification import Verdict, certify
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.operators import Dense
from equicert.presets import preset
from equicert.queries import StateBox
from equicert.schedules import TrainConfig
from equicert.solvers import Average, Picard, Solver, solve
from equicert.stored import StoredNetwork

# The first one is what the others are compared with.
NAMES: Final = ("convolution", "average", "matrix", "layers")


@dataclass(frozen=True)
class Sizes:
    """What is trained and measured.

    Attributes:
        channels: of the states, on a grid of half the side of the input's.
        front: explicit layers of the layered network.
        images: the first so many of the training split, all that the networks see.
        epochs: of training on those.
        batch: samples of a step, in training and measured.
        samples: the first so many of the test split, which are certified.
    """

    channels: int = 26
    front: str = "16x4/2,32x4/2,32x3"
    images: int = 3000
    epochs: int = 4
    batch: int = 100
    samples: int = 100


@final
@dataclass(frozen=True)
class Boxes(StateBoxMethod):
    """(14) as `Interval`, with the box proposed by a solver of choice.

    Attributes:
        solver: by which the embedded network is solved, to `Interval`'s tolerance.
        steps: the most that a sample took, one entry a batch.
    """

    solver: Solver
    steps: list[int]
    name = "interval"

    @torch.no_grad()
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        """The same box and proof as `Interval` has."""
        drive = network.drive_bounds(box.lo, box.hi)
        problem = network.embedded_problem(*drive)
        solution = solve(problem, self.solver, Interval().tolerance, Interval().max_steps)
        self.steps.append(int(solution.steps.max()))
        lo, hi = solution.value.chunk(2, -1)
        return prove_state_box(network, drive, lo, hi, solution.converged, solution.bound)


@dataclass(frozen=True)
class Stepping:
    """A whole training step on the training split, Adam's memory included."""

    network: Network
    data: DataSet

    def __call__(self) -> None:
        size = len(self.data.x_train)
        TrainingStep(self.network, batches_of(self.data, size, 1), self.data)()


@dataclass(frozen=True)
class Certifying:
    """Verdicts for the test split, of a network as it was loaded: the proof of W is part of it."""

    network: StoredNetwork
    data: DataSet
    solver: Solver

    def __call__(self) -> None:
        self.verdicts()

    def verdicts(self) -> tuple[list[Verdict], int]:
        """Those, and the steps of the slowest sample."""
        x, labels = torch.from_numpy(self.data.x_test), torch.from_numpy(self.data.y_test)
        method, domain = Boxes(self.solver, []), self.data.domain
        found = certify(replace(self.network), x, labels, EPS, domain=domain, method=method)
        return found, max(method.steps)


def measure(
    data: DataSet,
    work: Path,
    rounds: int,
    budget: float,
    sizes: Sizes = Sizes(),
    alone: Collection[str] = NAMES,
) -> dict[str, Any]:
    """Times, steps and, of those named in `alone`, memory, of training steps and of verdicts."""
    few = _few(data, sizes)
    networks, took = subjects(few, work, sizes)
    solvers = {name: Average() if name == "average" else Picard() for name in NAMES}
    copies = {name: variant(networks[name], solvers[name]) for name in NAMES}
    batches = batches_of(few, sizes.batch, 2)
    steps = {name: count_steps(copies[name], batches[:1], few) for name in NAMES}
    step = {name: TrainingStep(copies[name], batches, few) for name in NAMES}
    step_times = interleaved(step, rounds, budget)
    certifying = {
        name: Certifying(network.store(), few, solvers[name]) for name, network in networks.items()
    }
    outcomes: dict[str, tuple[list[Verdict], int]] = {}
    calls = {name: _kept(outcomes, name, call) for name, call in certifying.items()}
    verdict_times = interleaved(calls, -(-rounds // 4), budget)
    once = replace(few, x_train=few.x_train[: sizes.batch], y_train=few.y_train[: sizes.batch])
    stepping = {name: Stepping(copies[name], once) for name in NAMES}
    return {
        "settings": {
            "batch": sizes.batch,
            "samples": sizes.samples,
            "images": sizes.images,
            "eps": EPS,
            "kappa": KAPPA,
            "channels": sizes.channels,
            "tolerance": TOLERANCE,
            "training_steps": sizes.epochs * -(-sizes.images // sizes.batch),
            "training_seconds": took,
            "certified_to": Interval().tolerance,
        },
        "states": {name: call.network.states for name, call in certifying.items()},
        "rates": {name: call.network.contraction.rate for name, call in certifying.items()},
        "step": _entries(step_times, stepping, alone, {n: {"steps": steps[n]} for n in NAMES}),
        "certification": _entries(
            verdict_times,
            {n: replace(call, network=replace(call.network)) for n, call in certifying.items()},
            alone,
            {n: {"slowest": most, "certified": _held(v)} for n, (v, most) in outcomes.items()},
        ),
    }


def subjects(few: DataSet, work: Path, sizes: Sizes) -> tuple[dict[str, Network], dict[str, float]]:
    """The networks by name, and the seconds that training took of the two that are trained."""
    common: dict[str, Any] = {
        "kappa": KAPPA,
        "kappa_start": 0.0,
        "input_gain": 1.0,
        "epochs": sizes.epochs,
        "batch_size": sizes.batch,
        "seed": SEED,
        "threads": 1,
    }
    convolutional = TrainConfig(
        weights="convolutional",
        channels=sizes.channels,
        learning_rate=1e-3,
        ramp_start=0.0,
        ramp_end=sizes.epochs / 2,
        **common,
    )
    # Deeper: a faster rise of eps leaves it with states that are 0 for every input.
    rise = {"ramp_start": sizes.epochs / 4, "ramp_end": sizes.epochs, "learning_rate": 2e-3}
    network, took = trained(few, convolutional, work)
    layered, took_layered = trained_network(
        few, preset("convolutional", **common, **rise, front=sizes.front), work
    )
    networks: dict[str, Network] = {
        "convolution": network,
        "average": network,
        "matrix": as_matrices(network),
        "layers": layered,
    }
    return networks, {"convolution": took, "layers": took_layered}


def as_matrices(network: ImplicitNetwork) -> ImplicitNetwork:
    """The same function with W and U as full matrices, every entry of them free."""
    stored = network.store()
    full = replace(stored, W=Dense(stored.W.dense()), U=Dense(stored.U.dense()))
    return ImplicitNetwork.from_stored(full).to(network.b)


def _few(data: DataSet, sizes: Sizes) -> DataSet:
    train, test = slice(sizes.images), slice(sizes.samples)
    return replace(
        data,
        x_train=data.x_train[train],
        y_train=data.y_train[train],
        x_test=data.x_test[test],
        y_test=data.y_test[test],
    )


def _kept(outcomes: dict[str, Any], name: str, call: Certifying) -> Callable[[], None]:
    """The call, whose outcome is kept."""

    def certified() -> None:
        outcomes[name] = call.verdicts()

    return certified


def _held(verdicts: list[Verdict]) -> int:
    return sum(verdict.status == "certified" for verdict in verdicts)


def _entries(
    found: Mapping[str, Timing],
    calls: Mapping[str, Callable[[], None]],
    alone: Collection[str],
    more: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Of each contestant time, memory where asked for, and what else is known."""
    return {
        name: {
            "time": timing.to_json(),
            **({"memory": resident(calls[name])} if name in alone else {}),
            **more[name],
        }
        for name, timing in found.items()
    }


def resident(call: Callable[[], None]) -> dict[str, int]:
    """Bytes that a process of its own held before and at most while it made this call."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "call.pt"
        torch.save(call, path)
        command = [sys.executable, "-m", "benchmarks.convolutions", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return json.loads(done.stdout)


def _alone(path: str) -> dict[str, int]:
    """Make the call that a file holds; the bytes before, and the most until the end."""
    call: Stepping | Certifying = torch.load(path, weights_only=False)  # written by `resident`
    _load_libraries(call.data)
    before = now_resident()
    call()
    return {"before_bytes": before, "most_bytes": most_resident()}


def _load_libraries(data: DataSet) -> None:
    """Both calls on a network of two states: what they import and compile is then in memory."""
    few = replace(data, x_test=data.x_test[:2], y_test=data.y_test[:2])
    tiny = random_network(2, data)
    Stepping(variant(tiny), few)()
    Certifying(tiny.store(), few, Picard())()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(_alone(sys.argv[1])) + "\n")
