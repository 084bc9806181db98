"""A study: named variants trained for each seed, then certified and attacked over grids of radii.

Stages write into folders of their own below one output folder, so that a kill at any moment loses
at most an epoch or a batch of samples; numbers are read from those folders by `outcomes`.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from equicert.attack_run import AttackRun
from equicert.attacks import Attack
from equicert.bounds import Method
from equicert.certify_run import Certification
from equicert.checkpoints import describe_domain
from equicert.data import DataSet
from equicert.errors import ConfigError
from equicert.evaluation import evaluate
from equicert.experiments.progress import Progress
from equicert.jobs import Samples
from equicert.models import load_model
from equicert.runs import RunFolder, claim_folder
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import MODEL, Trainer, thread_count

_BATCH = 500  # samples between two reports of progress


@dataclass(frozen=True)
class Task:
    """One thing that is done with a trained model at one radius.

    Attributes:
        name: of its folder and of its curve: the same for all radii of a curve.
        job: certifying or attacking.
        eps: the radius.
        clipped: whether boxes are clipped to the data's domain.
        limit: the first so many test samples only; None for all.
    """

    name: str
    job: Certification | AttackRun
    eps: float
    clipped: bool = True
    limit: int | None = None

    def __str__(self) -> str:
        if isinstance(self.job, AttackRun):
            return f"attacking by {self.job.name} at eps = {self.eps:g}"
        clipped = "" if self.clipped else " without clipping"
        return f"certifying by {self.job.method.name} at eps = {self.eps:g}{clipped}"


def certificates(
    name: str,
    method: Method,
    radii: Iterable[float],
    limit: int | None = None,
    *,
    clipped: bool = True,
) -> list[Task]:
    """Certifying at each radius."""
    return [Task(name, Certification(method, eps), eps, clipped, limit) for eps in radii]


def attacks(
    name: str, attack: Attack, radii: Iterable[float], limit: int | None = None
) -> list[Task]:
    """Attacking at each radius but 0, where there is no room."""
    return [Task(name, AttackRun(attack, eps), eps, limit=limit) for eps in radii if eps > 0]


@dataclass(frozen=True)
class Variant:
    """A kind of model: its settings, whose seed is not used, and what is done with each.

    One that is there already is `given`: its settings then say only how many threads there are.
    """

    name: str
    config: TrainConfig
    tasks: tuple[Task, ...]
    given: StoredNetwork | None = None

    @property
    def folder(self) -> str:
        """The name as a folder: letters, digits, dots and hyphens."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class Stage:
    """A part of a study with a folder of its own: training a model (no task), or a task with it.

    For a given model nothing is done in the first, and there is no such folder.
    """

    seed: int
    variant: Variant
    task: Task | None = None

    @property
    def folder(self) -> str:
        """Relative to the folder of the study."""
        model = f"seed-{self.seed}/{self.variant.folder}"
        return f"{model}/train" if self.task is None else f"{model}/{place_of(self.task)}"

    def __str__(self) -> str:
        training = "training" if self.variant.given is None else "as it is"
        what = training if self.task is None else str(self.task)
        return f"seed {self.seed}, {self.variant.name} model: {what}"


def place_of(task: Task) -> str:
    """The folder of a task, relative to that of its model."""
    return f"{task.name}/eps-{task.eps:g}"


class Study(ABC):
    """An experiment: its variants, and how they are run; subclasses are frozen dataclasses."""

    kind: ClassVar[str]  # what its folder is claimed as
    seeds: int  # number of seeds, 0, 1, ...
    limit: int | None  # the first so many test samples; None for all
    attacked: int  # the first so many of these are attacked, unless a task says otherwise

    @abstractmethod
    def variants(self) -> Sequence[Variant]:
        """All variants, in order; what runs at all has at least one, and each its own name."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What makes the study what it is, beside the data: JSON values."""

    def first(self) -> int:
        """How many samples are attacked where not all are."""
        return self.attacked if self.limit is None else min(self.attacked, self.limit)

    def models(self) -> Iterator[Stage]:
        """The training of each model, in order; a given one comes with the first seed alone."""
        for seed, variant in itertools.product(range(self.seeds), self.variants()):
            if seed == 0 or variant.given is None:
                yield Stage(seed, variant)

    def stages(self) -> Iterator[Stage]:
        """All stages, in order."""
        for model in self.models():
            yield model
            yield from (replace(model, task=task) for task in model.variant.tasks)

    def run(
        self,
        data: DataSet,
        out: str | Path,
        *,
        spec: str | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> RunFolder:
        """Carry out all stages below `out`, or with `resume` those that are not finished there.

        Args:
            data: training and test split; boxes are clipped to its domain.
            out: the folder.
            spec: what `load_data` was given, recorded beside each model; default the data's name.
            resume: whether to continue the run that `out` holds.
            progress: hears of stages, and of what they do.

        Raises:
            OutputError: the folder holds another run (the first difference is named), or this one
                and `resume` is False, or it cannot be written.
            EquicertError: whatever training, certifying or attacking raises.
        """
        about = {"data_digest": data.digest, "domain": describe_domain(data.domain)}
        folder = claim_folder(out, self.kind, {**self.settings(), **about}, resume)
        progress = progress or Progress()
        stages = list(self.stages())
        network = None
        with thread_count(self.threads or torch.get_num_threads()):
            for number, stage in enumerate(stages, 1):
                progress.stage(number, len(stages), str(stage))
                if stage.task is None:
                    network = stage.variant.given
                    if network is None:
                        network = _train(stage, data, folder / stage.folder, spec, progress)
                elif network is not None:
                    _evaluate(stage.task, network, data, folder / stage.folder, progress)
        return folder

    @property
    def threads(self) -> int | None:
        """CPU threads; None for torch's choice."""
        return self.variants()[0].config.threads

    def _check(self, radii: Sequence[float], among: Sequence[float] = ()) -> None:
        """Raise ConfigError for counts below 1, and for radii that do not increase from 0.

        `among` are radii that must be there.
        """
        counts = {"seeds": self.seeds, "limit": self.limit, "attacked": self.attacked}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be an integer >= 1, got {count}")
        if tuple(radii[:1]) != (0.0,) or any(a >= b for a, b in itertools.pairwise(radii)):
            raise ConfigError(f"radii must begin with 0 and increase, got {radii}")
        if missing := sorted(set(among) - set(radii)):
            raise ConfigError(f"radii must have {among} among them, {missing} are missing")


def training_settings(config: TrainConfig, prefix: str = "training_") -> dict[str, Any]:
    """The settings of a variant as those of a study; seeds are the study's own."""
    return {prefix + name: v for name, v in config.to_mapping().items() if name != "seed"}


def lasting(config: TrainConfig, epochs: int) -> TrainConfig:
    """The settings for another number of epochs: milestones keep their places."""
    milestones = ("warmup", "ramp_start", "ramp_end", "late_epoch", "decay_start")
    set_ = {name: getattr(config, name) for name in milestones if getattr(config, name)}
    share = epochs / config.epochs
    return replace(config, epochs=epochs, **{name: share * at for name, at in set_.items()})


def _train(
    stage: Stage, data: DataSet, place: Path, spec: str | None, progress: Progress
) -> StoredNetwork:
    """The trained network, as its file holds it."""
    config = replace(stage.variant.config, seed=stage.seed)
    Trainer(data, config, place, spec=spec, resume=True, progress=progress).run()
    return load_model(place / MODEL)


def _evaluate(
    task: Task, network: StoredNetwork, data: DataSet, place: Path, progress: Progress
) -> None:
    samples = Samples.of(data, network, task.limit, data.domain if task.clipped else None)
    evaluate(
        task.job,
        network,
        samples,
        batch_size=_BATCH,
        out=place,
        resume=True,
        progress=progress.samples,
    )
