"""Training: the loop, its output folder, and resuming it after a kill at any moment.

A folder holds `run.json` (whose it is), `config.yaml`, `metrics.jsonl` (a line an epoch),
`checkpoint.pt` (replaced after each epoch) and, at the end, `model.safetensors`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from equicert.augmentation import shifted
from equicert.bounds import Spectral
from equicert.certification import certify
from equicert.checkpoints import CONFIG, Checkpoint, RunRecord, load_moments
from equicert.contraction import Contraction
from equicert.data import DataSet
from equicert.errors import ConfigError, DataError, EquicertError, OutputError
from equicert.initialisation import DTYPES, image_of, initial_network
from equicert.losses import Loss
from equicert.models import save_model
from equicert.monotonicity import Monotone
from equicert.network import ImplicitNetwork
from equicert.policies import Raise, Tally, WarnAndCount
from equicert.recipes import recipe_of
from equicert.runs import JsonLines, RunFolder, claim_folder, read_lines
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork

MODEL: Final = "model.safetensors"
METRICS: Final = "metrics.jsonl"
CHECKPOINT: Final = "checkpoint.pt"

_SOLVES: Final = ("forward", "embedded", "joint", "adjoint")


class DivergedError(EquicertError):
    """The loss or a weight became NaN or infinite."""

    def __init__(self, epoch: int, learning_rate: float) -> None:
        super().__init__(
            f"training diverged in epoch {epoch}: the loss or a weight became NaN or infinite;"
            f" lower the learning rate ({learning_rate:g} there), raise eps and kappa more slowly,"
            " or rescale the inputs"
        )


class Progress:
    """Hears how far training is; the methods do nothing until a subclass says otherwise."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Called after each step; epoch and step count from 1."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Called after each epoch with its line of metrics.jsonl."""


@dataclass(frozen=True)
class Trained:
    """The trained network and its metrics, a dict an epoch."""

    network: StoredNetwork
    metrics: list[dict[str, Any]]


class Trainer:
    """Trains a network by the recipe of a config.

    The outcome is a function of the data, the config and the number of threads: on one CPU
    machine, weights are bit-identical whether or not the run was killed and resumed.

    Example:
        >>> trained = Trainer(load_data("digits"), TrainConfig(hidden=50), "runs/digits").run()
        >>> trained.metrics[-1]["certified_accuracy"]

    Args:
        data: training and test split; boxes are clipped to its domain.
        config: see `TrainConfig`.
        out: output folder; None keeps everything in memory.
        spec: what `load_data` was given, recorded for resuming; default the data's name.
        resume: whether to continue the run that `out` holds.
        progress: hears of steps and epochs.

    Raises:
        ConfigError, ModelError: a setting that does not exist here: device, activation.
        DataError: fewer than two classes.
        OutputError: on `run`, the folder holds another run (the first difference is named) or
            cannot be written.
    """

    def __init__(
        self,
        data: DataSet,
        config: TrainConfig,
        out: str | Path | None = None,
        *,
        spec: str | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if data.classes < 2:
            raise DataError(f"{data.name} has one class only; training needs at least two")
        self.data, self.config = data, config
        self._recipe = recipe_of(config)
        self._record = RunRecord(config, data, spec or data.name)
        self._resume, self._progress = resume, progress or Progress()
        self._out = None if out is None else Path(out)
        device, dtype = _device(config.device), DTYPES[config.dtype]
        self._x = torch.from_numpy(data.x_train).to(device, dtype)
        self._labels = torch.from_numpy(data.y_train).to(device)
        self._image = image_of(config, data.inputs) if config.shift else None
        self._background = _background(data)
        self._policy = WarnAndCount() if config.on_unconverged == "warn" else Raise()
        self._tally = Tally(self._policy)
        self.network = initial_network(data, config, self._tally).to(device, dtype)
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, fused=True
        )

    def run(self) -> Trained:
        """Train to the end and write the model.

        Raises:
            DivergedError: the loss or a weight became NaN or infinite.
            NotConvergedError: a solve missed its tolerance and the policy is to raise.
            OutputError: the folder cannot be claimed or written.
        """
        if self._out is None:
            with thread_count(self.config.threads or torch.get_num_threads()):
                metrics = [self._epoch(epoch) for epoch in range(self.config.epochs)]
                return Trained(self.network.store(), metrics)
        folder = claim_folder(self._out, "train", self._record.identity(), self._resume)
        return Trained(self._run_in(folder), read_lines(folder / METRICS))

    def _run_in(self, folder: RunFolder) -> StoredNetwork:
        done, threads = self._restore(folder)
        with thread_count(threads):
            folder.write(CONFIG, self._record.to_yaml(threads))
            with JsonLines(folder / METRICS, keep=done) as lines:
                for epoch in range(done, self.config.epochs):
                    # The line first: lines beyond the checkpoint are dropped on resuming.
                    lines.append(self._epoch(epoch))
                    self._checkpoint(epoch + 1, threads).save(folder / CHECKPOINT)
            stored = self.network.store()
        save_model(folder / MODEL, stored, self._metadata())
        folder.write(CONFIG, self._record.to_yaml(threads, stored.digest))
        return stored

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch and return its line of metrics."""
        began = time.perf_counter()
        missed = _missed(self._policy)
        self._tally.reset()
        means = _Means()
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self._x))
        batches = torch.from_numpy(order).split(self.config.batch_size)
        with self._watching(epoch):
            for index, rows in enumerate(batches):
                loss = self._step(epoch, index, len(batches), rows.to(self._x.device))
                means.add(loss, len(rows))
                value = float(loss.total.detach())
                self._progress.step(epoch + 1, index + 1, len(batches), value)
            stored = self.network.store()
        last = self.config.at(epoch + (len(batches) - 1) / len(batches))
        steps = self._tally.mean_steps()
        after = _missed(self._policy)
        clean, certified = evaluate(stored, self.data, self.config)
        line = {
            "epoch": epoch + 1,
            **means.values(),
            "clean_accuracy": clean,
            "certified_accuracy": certified,
            "certified_eps": self.config.eps,
            **dict.fromkeys(("eps", "kappa")),
            **self._recipe.moving(last),
            "learning_rate": last.learning_rate,
            **_proof(stored.well_posed),
            **{f"{what}_steps": steps.get(f"{what} solve") for what in _SOLVES},
            **{f"{what}_unconverged": after[what] - missed[what] for what in _SOLVES},
            "seconds": time.perf_counter() - began,
        }
        self._progress.epoch(line)
        return line

    def _step(self, epoch: int, index: int, steps: int, rows: Tensor) -> Loss:
        now = self.config.at(epoch + index / steps)
        x, labels = self._x.index_select(0, rows), self._labels.index_select(0, rows)
        # A stream for each step: seeds that differ by zeros at the end are one to numpy.
        rng = np.random.default_rng([self.config.seed, epoch, 1 + index])
        if self._image is not None:
            x = shifted(x, self._image, self.config.shift, rng, self._background)
        loss = self._recipe.loss(self.network, x, labels, now, self.data.domain, rng)
        if not math.isfinite(float(loss.total.detach())):
            raise DivergedError(epoch + 1, now.learning_rate)
        for group in self._optimiser.param_groups:
            group["lr"] = now.learning_rate
        self.network.zero_grad()  # the optimiser's own takes longer
        loss.total.backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self._optimiser.step()
        return loss

    @contextlib.contextmanager
    def _watching(self, epoch: int) -> Iterator[None]:
        """Name divergence where NaN weights made some other check fail first."""
        try:
            yield
        except EquicertError as error:
            if _all_finite(self.network):
                raise
            rate = self._optimiser.param_groups[0]["lr"]
            raise DivergedError(epoch + 1, rate) from error

    def _restore(self, folder: RunFolder) -> tuple[int, int]:
        """Epochs done and the number of threads, after loading the checkpoint if there is one."""
        saved = Checkpoint.load(folder / CHECKPOINT)
        if saved is None:
            threads = self.config.threads or torch.get_num_threads()
            self._checkpoint(0, threads).save(folder / CHECKPOINT)  # keeps the thread count
            return 0, threads
        try:
            self.network.load_state_dict(saved.network)
            load_moments(self._optimiser, saved.optimiser)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{folder / CHECKPOINT} is not of this run; start again in another folder"
            ) from error
        return saved.epoch, saved.threads

    def _checkpoint(self, epoch: int, threads: int) -> Checkpoint:
        return Checkpoint(epoch, threads, self.network.state_dict(), self._optimiser.state_dict())

    def _metadata(self) -> dict[str, str]:
        """What the model file says about its training. Nothing in it is ever believed."""
        config = self.config
        told = {"recipe": config.recipe, "seed": config.seed, "epochs": config.epochs}
        told |= {**self._recipe.told(), "weights": config.weights, **config.weight_settings()}
        told |= {"data": self.data.name, "data_digest": self.data.digest}
        return {key: str(value) for key, value in told.items()}


def evaluate(
    network: StoredNetwork, data: DataSet, config: TrainConfig
) -> tuple[float, float | None]:
    """Clean and rigorously certified accuracy at `config.eps`, on the same test samples.

    The samples are spread over the split; with `evaluate_samples=0` the clean accuracy is that of
    the whole split and the certified one None.
    """
    size = len(data.x_test)
    count = min(config.evaluate_samples, size) or size
    rows = np.arange(count) * size // count
    x, labels = torch.from_numpy(data.x_test[rows]), torch.from_numpy(data.y_test[rows])
    if config.evaluate_samples == 0:
        solution = network.solve(x)
        right = (solution.value @ network.C.mT + network.c).argmax(1) == labels
        return float((right & solution.converged).double().mean()), None
    method = Spectral() if config.monotone else recipe_of(config).method
    verdicts = certify(network, x, labels, config.eps, domain=data.domain, method=method)
    clean = sum(verdict.predicted == verdict.label for verdict in verdicts)
    certified = sum(verdict.status == "certified" for verdict in verdicts)
    return clean / count, certified / count


@dataclass
class _Means:
    """Means over samples of the parts of the loss, each over the steps that had it."""

    _sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))
    _counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0))

    def add(self, loss: Loss, samples: int) -> None:
        for name, part in {"loss": loss.total, "nominal_loss": loss.nominal, **loss.parts}.items():
            if part is not None:
                self._sums[name] += float(part.detach()) * samples
                self._counts[name] += samples

    def values(self) -> dict[str, float | None]:
        return {
            name: self._sums[name] / count if count else None
            for name, count in self._counts.items()
        }


_PARTS: Final = ("loss", "nominal_loss", "robust_loss", "adversarial_loss", "lipschitz_bound")


def _proof(proof: Contraction | Monotone) -> dict[str, float]:
    """The numbers of the proof that the stored network is well-posed."""
    if isinstance(proof, Contraction):
        return {"mu": proof.mu, "eta_ratio": float(proof.eta.max() / proof.eta.min())}
    return {"m": proof.m, "Lambda_ratio": float(proof.Lambda.max() / proof.Lambda.min())}


def _background(data: DataSet) -> float:
    """What images are continued with beyond their border: the least value of the domain, or 0."""
    low = 0.0 if data.domain is None else data.domain[0]
    return float(np.min(np.asarray(low)))


@torch.no_grad()
def _all_finite(network: nn.Module) -> bool:
    """Whether its parameters are, and the W that they make: an exp may overflow."""
    blocks = [block for block in network.modules() if isinstance(block, ImplicitNetwork)]
    made = [t for block in blocks for t in block.weight.given(block.U, block.C).tensors().values()]
    return all(bool(t.isfinite().all()) for t in (*made, *network.parameters()))


def _missed(policy: Raise | WarnAndCount) -> dict[str, int]:
    counts = policy.missed if isinstance(policy, WarnAndCount) else {}
    return {what: counts.get(f"{what} solve", 0) for what in _SOLVES}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} cannot be used on this machine; use 'cpu'") from error
    return device


@contextlib.contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
