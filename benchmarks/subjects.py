"""What is measured: networks, batches, training steps, and a record of solver steps."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from equicert.checkpoints import RunRecord
from equicert.data import DataSet
from equicert.layered import LayeredNetwork
from equicert.losses import clipped_box
from equicert.network import ImplicitNetwork
from equicert.policies import Policy, Raise, Tally
from equicert.recipes import Inclusion, Recipe
from equicert.schedules import Setting, TrainConfig
from equicert.solution import Solution
from equicert.solvers import Picard, Solver
from equicert.training import Trainer
from equicert.weights import Contracting

EPS: Final = 0.1
KAPPA: Final = 0.75
TOLERANCE: Final = 1e-4
MAX_STEPS: Final = 100_000
SEED: Final = 0
ROW_SUMS: Final = (0.5, 5.5)  # of |T| in random networks, from the first row to the last

Network: TypeAlias = ImplicitNetwork | LayeredNetwork
_Network = TypeVar("_Network", ImplicitNetwork, LayeredNetwork, Network)
Batch = tuple[Tensor, Tensor]  # (batch, r) inputs, (batch,) labels


class Steps(Policy):
    """Records the steps of every solve: their mean over samples, and the slowest sample's.

    Args:
        policy: hears of each solve, too; default `Raise()`.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Raise()
        self._mean: dict[str, list[float]] = defaultdict(list)
        self._most: dict[str, list[float]] = defaultdict(list)

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        self._policy.observe(what, solution, advice)
        kind = "adjoint" if what.startswith("adjoint") else "forward"
        self._mean[kind].append(solution.mean_steps)
        self._most[kind].append(float(solution.steps.max()))

    def to_json(self) -> dict[str, float]:
        """Means over solves of `forward` and `adjoint` steps, and of the slowest samples'."""
        mean = {kind: fmean(found) for kind, found in self._mean.items()}
        return mean | {f"{kind}_slowest": fmean(found) for kind, found in self._most.items()}


class Missed(Policy):
    """Counts the samples whose solves end short of the tolerance, and goes on."""

    def __init__(self) -> None:
        self.samples = self.of = 0

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        del what, advice
        self.samples += int((~solution.converged).sum())
        self.of += len(solution.converged)


class TrainingStep:
    """A step as `Trainer` makes it: loss, gradients, fused Adam; batches take turns.

    The learning rate is 0, which costs the same: every step meets the same weights.
    """

    def __init__(
        self,
        network: Network,
        batches: Sequence[Batch],
        data: DataSet,
        kappa: float = KAPPA,
        recipe: Recipe | None = None,
    ) -> None:
        self.network, self._domain = network, data.domain
        self._recipe = recipe or Inclusion(EPS, kappa)
        self._now = Setting(EPS, kappa, 0.0)
        self._batches, self._rng = itertools.cycle(batches), np.random.default_rng(0)
        self._optimiser = torch.optim.Adam(network.parameters(), lr=0.0, fused=True)

    def __call__(self) -> None:
        x, labels = next(self._batches)
        loss = self._recipe.loss(self.network, x, labels, self._now, self._domain, self._rng)
        self.network.zero_grad()
        loss.total.backward()
        self._optimiser.step()


class JointSolve:
    """States and boxes of a batch by one solve, the weights materialised before."""

    def __init__(self, network: ImplicitNetwork, batches: Sequence[Batch], data: DataSet) -> None:
        self.network, self._domain = network, data.domain
        self._batches = itertools.cycle(batches)
        with torch.no_grad():
            self._at = network.materialise()

    @torch.no_grad()
    def __call__(self) -> None:
        x, _ = next(self._batches)
        self.network.state_and_reach(x, *clipped_box(x, EPS, self._domain), self._at)


def trained(data: DataSet, config: TrainConfig, folder: Path) -> tuple[ImplicitNetwork, float]:
    """The implicit network of a config without a front; see `trained_network`."""
    network, took = trained_network(data, config, folder)
    if not isinstance(network, ImplicitNetwork):
        raise TypeError("networks with a front have no place in this benchmark")
    return network, took


def trained_network(data: DataSet, config: TrainConfig, folder: Path) -> tuple[Network, float]:
    """The network of a config, and the seconds that its epochs took.

    It is trained once, then reused; the seconds include each epoch's accuracies.

    Each config and data set has a folder of its own below `folder`, which a run resumes or finds
    finished; `Trainer` compares what the folder records.
    """
    identity = json.dumps(RunRecord(config, data, data.name).identity(), sort_keys=True)
    own = folder / f"{data.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    trainer = Trainer(data, config, own, resume=True)
    metrics = trainer.run().metrics
    return trainer.network, sum(line["seconds"] for line in metrics)


def robust(epochs: int) -> TrainConfig:
    """The published recipe of robust training, in so many epochs."""
    return TrainConfig(epochs=epochs, seed=SEED, threads=1)


def random_network(n: int, data: DataSet, dtype: torch.dtype = torch.float32) -> ImplicitNetwork:
    """A contracting network with mu <= 0 whose rows of |T| sum to ROW_SUMS, evenly spaced.

    As in a trained network some rows are stiff and some are not, at every n alike: Picard contracts
    at 5.5/6.5, and the average iteration's step is 1/6.5.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = ImplicitNetwork(data.inputs, n, data.classes, weight=Contracting(n))
    with torch.no_grad():
        T = network.weight.get_parameter("T")
        T.mul_(torch.linspace(*ROW_SUMS, n)[:, None] / T.abs().sum(1, keepdim=True))
    return network.to(dtype)


def variant(
    network: _Network,
    solver: Solver | None = None,
    tolerance: float = TOLERANCE,
    policy: Policy | None = None,
) -> _Network:
    """A copy of a network that solves in another way, in all of its implicit blocks."""
    copied, policy = copy.deepcopy(network), policy or Tally(Raise())
    for block in copied.modules():
        if isinstance(block, ImplicitNetwork):
            block.solver, block.tolerance = solver or Picard(), tolerance
            block.max_steps, block.policy = MAX_STEPS, policy
    return copied


def batches_of(
    data: DataSet, size: int, count: int, dtype: torch.dtype = torch.float32
) -> list[Batch]:
    """The first so many batches of the training split."""
    x = torch.from_numpy(data.x_train[: size * count]).to(dtype)
    labels = torch.from_numpy(data.y_train[: size * count])
    return list(zip(x.split(size), labels.split(size), strict=True))


def count_steps(
    network: Network,
    batches: Sequence[Batch],
    data: DataSet,
    kappa: float = KAPPA,
) -> dict[str, float]:
    """Solver steps of a training step, over these batches, by the network's own solver."""
    steps, copied = Steps(), copy.deepcopy(network)
    for block in copied.modules():
        if isinstance(block, ImplicitNetwork):
            block.policy = steps
    step = TrainingStep(copied, batches, data, kappa)
    for _ in batches:
        step()
    return steps.to_json()
