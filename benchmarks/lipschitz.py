"""The Lipschitz-training step: by Picard and by the average iteration, for both bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.markdown import count, ms, number, seconds, table, times
from benchmarks.subjects import (
    SEED,
    TOLERANCE,
    Missed,
    Steps,
    TrainingStep,
    batches_of,
    trained,
    variant,
)
from benchmarks.timing import interleaved
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.recipes import Recipe, recipe_of
from equicert.schedules import TrainConfig
from equicert.solvers import Average, Picard, Solver

Bound = Literal["weighted", "derived"]
BOUNDS: Final[tuple[Bound, ...]] = ("weighted", "derived")
SOLVERS: Final[dict[str, Solver]] = {"Picard": Picard(), "average": Average()}
WEIGHT: Final = 1e-5  # that of [J22], Figure 1, bottom
_BATCHES: Final = 8
_MAX_STEPS: Final = 2000  # a solve, as in training
_AIMS: Final = {"epoch_s": 1.5, "ratio": 4.0}
_PUBLISHED_S: Final = 9.8  # an epoch of [J22], P100 GPU


def config(bound: Bound, epochs: int) -> TrainConfig:
    """The published recipe with this bound, for so many epochs."""
    return TrainConfig(
        recipe="lipschitz",
        lipschitz_bound=bound,
        lipschitz_weight=WEIGHT,
        epochs=epochs,
        learning_rate_late=1e-3,
        evaluate_samples=0,
        seed=SEED,
        threads=1,
    )


def measure(
    data: DataSet, folder: Path, rounds: int, budget: float, epochs: int = 5, batch: int = 100
) -> dict[str, Any]:
    """Times and solver steps of training steps of networks after a few epochs."""
    batches = batches_of(data, batch, _BATCHES)
    calls: dict[str, TrainingStep] = {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for bound in BOUNDS:
        settings = config(bound, epochs)
        network, _ = trained(data, settings, folder)
        found[bound] = {}
        for name, solver in SOLVERS.items():
            missed = Missed()
            steps = Steps(missed)
            step = _step(network, solver, steps, recipe_of(settings), data, batch)
            for _ in batches:
                step()
            share = missed.samples / missed.of
            found[bound][name] = {"steps": steps.to_json(), "missed": share}
            calls[f"{bound} {name}"] = _step(
                network, solver, Missed(), recipe_of(settings), data, batch
            )
    timed = interleaved(calls, rounds, budget)
    for bound, entries in found.items():
        for name, entry in entries.items():
            entry["time"] = timed[f"{bound} {name}"].to_json()
    settings = {"batch": batch, "epochs": epochs, "weight": WEIGHT, "tolerance": TOLERANCE}
    settings |= {"steps": -(-len(data.x_train) // batch), "max_steps": _MAX_STEPS}
    return {"settings": settings, "bounds": found}


def _step(
    network: ImplicitNetwork,
    solver: Solver,
    policy: Missed | Steps,
    recipe: Recipe,
    data: DataSet,
    batch: int,
) -> TrainingStep:
    own = variant(network, solver, policy=policy)
    own.max_steps = _MAX_STEPS
    return TrainingStep(own, batches_of(data, batch, _BATCHES), data, recipe=recipe)


def lipschitz_section(found: dict[str, Any]) -> list[str]:
    """The tables of what `measure` returned."""
    settings, bounds = found["settings"], found["bounds"]
    steps = settings["steps"]
    rows = [
        (
            f"{bound}, {name}",
            ms(entry["time"]["cpu"]),
            ms(entry["time"]["wall"]),
            seconds(steps * entry["time"]["cpu"]),
            number(entry["steps"]["forward"]),
            number(entry["steps"]["adjoint"]),
            f"{100 * entry['missed']:.3g} %",
        )
        for bound, entries in bounds.items()
        for name, entry in entries.items()
    ]
    aims = []
    for bound, entries in bounds.items():
        own = entries["Picard"]["time"]["cpu"]
        aim, ratio = f"<= {_AIMS['epoch_s']:g} s", entries["average"]["time"]["cpu"] / own
        aims.append((f"epoch, {bound}", aim, seconds(steps * own), f"{_PUBLISHED_S:g} s"))
        aims.append((f"average / Picard, {bound}", f">= {_AIMS['ratio']:g}", times(ratio), ""))
    header = ("bound, solver", "ms", "wall ms", "epoch", "forward", "adjoint", "missed")
    return [
        "## A step of Lipschitz training",
        "",
        (
            f"Loss (8), lambda = {settings['weight']:g}, with the bound of Theorem 6.1 (weighted)"
            f" or the derived one, gradients and Adam for {settings['batch']} samples in float32,"
            f" on networks after {settings['epochs']} epochs of it. Solvers stop as above, or after"
            f" {count(settings['max_steps'])} steps; *missed* is the share of solves of a sample,"
            " forward or adjoint, whose proved error radius does not reach the tolerance by then"
            " in float32. An epoch is"
            f" {count(steps)} steps, shuffling and evaluation left out."
        ),
        "",
        *table(header, rows),
        "",
        *table(("", "aim", "measured", "published, P100 GPU"), aims),
    ]
