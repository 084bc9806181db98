"""One batch of states by every solver at hand, to the same residual of the same equation.

torchdeq is an optional dependency of the benchmarks; without it, its rows say so.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from benchmarks.markdown import ms, number, table
from benchmarks.subjects import SEED, batches_of, trained
from benchmarks.timing import interleaved
from equicert.contraction import prove_contraction
from equicert.data import DataSet
from equicert.errors import NotContractingError, NotMonotoneError
from equicert.materialised import Materialised
from equicert.monotonicity import prove_monotone
from equicert.network import ImplicitNetwork
from equicert.problems import Drive, MonotoneProblem, PrimalProblem, Splitting
from equicert.schedules import TrainConfig
from equicert.solvers import (
    Anderson,
    Average,
    ForwardBackward,
    PeacemanRachford,
    Picard,
    Solver,
    solve,
)

THRESHOLD: Final = 1e-4  # of `||N(z, x) - z||_inf`, the worst sample's
LADDER: Final = tuple(m * 10.0**-k for k in range(1, 7) for m in (1.0, 0.3))
OURS: Final[dict[str, Solver]] = {
    "Picard": Picard(),
    "Anderson": Anderson(),
    "average": Average(),
    "forward-backward": ForwardBackward(),
    "Peaceman-Rachford": PeacemanRachford(),
}
_MOST: Final = 2000  # steps
# torchdeq's solver, its limit of steps (what it keeps grows with it), and whether it is damped.
TORCHDEQ: Final = {
    "fixed_point_iter": ("fixed_point_iter", 300, False),
    "fixed_point_iter, tau = alpha": ("fixed_point_iter", 300, True),
    "anderson": ("anderson", 300, False),
    "broyden": ("broyden", 100, False),
}


class Solved(NamedTuple):
    """The states that a solver returns, (batch, n), and the steps of the slowest sample."""

    value: Tensor
    steps: int


Contestant = Callable[[float], Solved]  # from a tolerance


class Subject:
    """The equation `z = phi(W z + u)` of a batch, u and what is proved of W worked out before."""

    def __init__(self, network: ImplicitNetwork, x: Tensor) -> None:
        with torch.no_grad():
            self.at: Materialised = network.materialise()
            self.u = self.at.U.affine(x, self.at.b)
        self.W = self.at.W.detach().dense()
        self.phi = network.activation.phi
        self._network, self._x = network, x

    def N(self, z: Tensor) -> Tensor:  # noqa: N802 - the paper's letter
        """`phi(W z + u)`, (batch, n)."""
        return self.phi(torch.addmm(self.u, z, self.W.mT))

    def residual(self, z: Tensor) -> float:
        """The largest `||N(z, x) - z||_inf`, in float64."""
        z, u, W = z.double(), self.u.double(), self.W.double()
        return float((self.phi(torch.addmm(u, z, W.mT)) - z).abs().amax())

    def ours(self, solver: Solver) -> Contestant:
        """By a solver of this package.

        Raises:
            NotContractingError, NotMonotoneError: the solver's condition cannot be proved.
        """
        at, phi = self.at, self._network.activation
        form: Callable[[], PrimalProblem | MonotoneProblem]
        if solver.splits:
            splitting = Splitting(at.W.detach(), prove_monotone(at.W.detach()))
            form = lambda: MonotoneProblem(splitting, self.u, self._error, phi)  # noqa: E731
        else:
            proof = prove_contraction(at.W, at.hint)
            form = lambda: PrimalProblem(  # noqa: E731
                at.sweep, at.diagonal, Drive(self.u), self._error, phi, proof
            )

        def run(tolerance: float) -> Solved:
            solution = solve(form(), solver, tolerance, _MOST)
            return Solved(solution.value, int(solution.steps.max()))

        return run

    def torchdeq(self, solver: str, most: int, damped: bool) -> Contestant:
        """By torchdeq with `ift=True`, from 0, stopped on the l2-norm of `N(z, x) - z`."""
        library: Any = importlib.import_module("torchdeq")
        least = min(float(self.W.diagonal().min()), 0.0)
        settings = {"tau": 1 / (1 - least)} if damped else {}
        zero = torch.zeros_like(self.u)

        def run(tolerance: float) -> Solved:
            deq = library.get_deq(ift=True, f_solver=solver, f_max_iter=most, f_tol=tolerance)
            [z], info = deq.eval()(self.N, zero, solver_kwargs=settings)
            return Solved(z, int(info["nstep"].max()))

        return run

    def _error(self) -> Tensor:
        return self.at.input_error(self._x)


def measure(
    network: ImplicitNetwork,
    data: DataSet,
    folder: Path,
    rounds: int,
    budget: float,
    epochs: int = 2,
    batch: int = 1000,
) -> dict[str, Any]:
    """Times of all solvers on the robust network, and on a monotone one after a few epochs."""
    config = TrainConfig(
        weights="monotone", kappa=0.0, epochs=epochs, evaluate_samples=0, seed=SEED, threads=1
    )
    monotone, _ = trained(data, config, folder)
    [(x, _)] = batches_of(data, batch, 1)
    settings = {"batch": batch, "threshold": THRESHOLD, "epochs": epochs, "most": _MOST}
    return {
        "settings": settings | {"hidden": len(network.b)},
        "robust": _rows(Subject(network, x), rounds, budget),
        "monotone": _rows(Subject(monotone, x), rounds, budget),
    }


@torch.no_grad()
def _rows(subject: Subject, rounds: int, budget: float) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, found in _contestants(subject).items():
        if isinstance(found, str):
            rows[name] = {"absent": found}
            continue
        tolerance, (z, steps) = _loosest(subject, found)
        residual = subject.residual(z)
        kept = residual if math.isfinite(residual) else None
        rows[name] = {"tolerance": tolerance, "steps": steps, "residual": kept}
        if residual <= THRESHOLD:
            calls[name] = _call(found, tolerance)
    timed = interleaved(calls, rounds, budget)
    for name, timing in timed.items():
        rows[name]["time"] = timing.to_json()
    return rows


def _contestants(subject: Subject) -> Mapping[str, Contestant | str]:
    """By name; text says why one is not there."""
    found: dict[str, Contestant | str] = {}
    for name, solver in OURS.items():
        try:
            found[name] = subject.ours(solver)
        except NotContractingError:
            found[name] = "not proved to contract"
        except NotMonotoneError:
            found[name] = "not proved monotone"
    here = importlib.util.find_spec("torchdeq") is not None
    for name, settings in TORCHDEQ.items():
        found[f"torchdeq {name}"] = subject.torchdeq(*settings) if here else "torchdeq is missing"
    return found


def _loosest(subject: Subject, contestant: Contestant) -> tuple[float, Solved]:
    """The loosest tolerance of the ladder that attains the threshold, else the last one tried."""
    for tolerance in LADDER[:-1]:
        solved = contestant(tolerance)
        if subject.residual(solved.value) <= THRESHOLD or solved.steps >= _MOST:
            return tolerance, solved
    return LADDER[-1], contestant(LADDER[-1])


def _call(contestant: Contestant, tolerance: float) -> Callable[[], object]:
    return lambda: contestant(tolerance)


def solves_section(found: dict[str, Any]) -> list[str]:
    """The tables of what `measure` returned."""
    settings = found["settings"]
    header = ("solver", "ms", "wall ms", "iterations", "tolerance", "residual")
    titles = {
        "robust": "The robust network, which contracts:",
        "monotone": f"A monotone network (MON, m = 1) after {settings['epochs']} epochs of plain"
        " training:",
    }
    lines = [
        "## The same equation by other solvers",
        "",
        (
            f"States of a batch of {settings['batch']} in float32, n = {settings['hidden']}, W, its"
            " proof and `U x + b` worked out before; no gradients. Every contestant has the"
            " loosest tolerance of a ladder (0.1, 0.03, 0.01, ... 3e-07) at which the worst sample"
            f" has `||N(z, x) - z||_inf <= {settings['threshold']:g}`, checked in float64: what is"
            " compared is time at an equal residual of the same equation. Tolerances differ in"
            " kind: those of this package are proved error radii, torchdeq's (`ift=True`, from"
            " z = 0, its solvers as they come, at most 300 or 100 iterations) the l2-norm of"
            " `N(z, x) - z`. Its tau = alpha is the step size of [J22],"
            " Theorem 5.1, by which its plain iteration becomes the average one. Iterations are"
            " those of the slowest sample. Where the threshold is not reached, the row shows the"
            " last attempt; a solve with a proved radius also ends where, by its own bound,"
            " float32 resolves no more."
        ),
    ]
    for name, title in titles.items():
        rows = [_row(solver, row) for solver, row in found[name].items()]
        lines += ["", title, "", *table(header, rows)]
    return lines


def _row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    if "absent" in row:
        return (name, row["absent"], "", "", "", "")
    clocks = ("cpu", "wall")
    cells = [ms(row["time"][clock]) for clock in clocks] if "time" in row else ["not reached", ""]
    return (name, *cells, str(row["steps"]), f"{row['tolerance']:g}", _size(row["residual"]))


def _size(residual: float | None) -> str:
    """A residual in two or three digits."""
    if residual is None:
        return "diverged"
    return number(residual) if 1e-2 <= residual < 1e3 else f"{residual:.2g}"
