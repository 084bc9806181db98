"""Figure 2 of [J22]: a robust and a non-robust network, certified and attacked over a grid of eps.

Stages write into folders of their own below one output folder, so that a kill at any moment loses
at most an epoch or a batch of samples; numbers are read from those folders by `measurements`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from equicert.attacks import PGD
from equicert.bounds import Interval
from equicert.checkpoints import describe_domain
from equicert.data import DataSet
from equicert.errors import ConfigError
from equicert.evaluation import AttackRun, Certification, Samples, evaluate
from equicert.experiments.progress import Progress
from equicert.experiments.published import FIGURE2_EPS
from equicert.models import load_model
from equicert.runs import RunFolder, claim_folder
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import MODEL, Trainer, thread_count

ROBUST: Final = "robust"
NOT_ROBUST: Final = "not robust"
MODELS: Final = (ROBUST, NOT_ROBUST)
_BATCH: Final = 500  # samples between two reports of progress


def grid(eps_max: float = 0.2, step: int = 1) -> tuple[float, ...]:
    """Radii from 0 up to `eps_max`, every `step` hundredths, each the float64 nearest k/100.

    Raises:
        ConfigError: eps_max is not in [0.1, 1]: the published values are at 0.1.
    """
    if not FIGURE2_EPS <= eps_max <= 1:
        raise ConfigError(f"eps_max must be in [{FIGURE2_EPS:g}, 1], got {eps_max:g}")
    return tuple(k / 100 for k in range(0, 101, step) if k / 100 <= eps_max)


@dataclass(frozen=True)
class Stage:
    """A part of the study with a folder of its own: training (no job), certifying or attacking.

    Attributes:
        seed: of the model.
        model: one of MODELS.
        job: what is done with the trained model; None for its training.
        clipped: whether boxes are clipped to the data's domain.
        limit: the first so many test samples only; None for all.
    """

    seed: int
    model: str
    job: Certification | AttackRun | None = None
    clipped: bool = True
    limit: int | None = None

    @property
    def folder(self) -> str:
        """Relative to the folder of the study."""
        model = f"seed-{self.seed}/{self.model.replace(' ', '-')}"
        if self.job is None:
            return f"{model}/train"
        clipped = "" if self.clipped else "-unclipped"
        return f"{model}/{self.job.kind}{clipped}/eps-{self.job.eps:g}"

    def __str__(self) -> str:
        clipped = "" if self.clipped else " without clipping"
        match self.job:
            case None:
                what = "training"
            case Certification():
                what = f"certifying at eps = {self.job.eps:g}{clipped}"
            case AttackRun():
                what = f"attacking at eps = {self.job.eps:g}"
        return f"seed {self.seed}, {self.model} model: {what}"


@dataclass(frozen=True)
class Figure2:
    """The experiment and its settings; the defaults are those of [J22], with three seeds.

    For each seed two models are trained: one by `config`, and one by the same with eps = 0 and
    kappa = 0. Each is certified by the interval method (14) at every radius, on all test samples,
    and attacked by PGD: at `eps` all of them, elsewhere the first `attacked`.

    Example:
        >>> study = Figure2(TrainConfig(epochs=10), seeds=1)
        >>> study.run(load_data("mnist"), "runs/figure2")
        >>> models = measure(study, "runs/figure2")

    Args:
        config: of the robust model; its seed is not used.
        seeds: number of seeds, 0, 1, ...
        radii: increasing, in the units of the data, from 0 on.
        eps: the one of the radii at which values are published.
        limit: the first so many test samples; None for all.
        attacked: test samples that are attacked at the radii other than `eps`.
        pgd: the attack.

    Raises:
        ConfigError: a value out of its range.
    """

    config: TrainConfig = field(default_factory=TrainConfig)
    seeds: int = 3
    radii: tuple[float, ...] = grid()
    eps: float = FIGURE2_EPS
    limit: int | None = None
    attacked: int = 1000
    pgd: PGD = field(default_factory=PGD)

    def __post_init__(self) -> None:
        counts = {"seeds": self.seeds, "limit": self.limit, "attacked": self.attacked}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be an integer >= 1, got {count}")
        if self.radii[:1] != (0.0,) or any(a >= b for a, b in itertools.pairwise(self.radii)):
            raise ConfigError(f"radii must begin with 0 and increase, got {self.radii}")
        if self.eps not in self.radii[1:]:
            raise ConfigError(f"eps must be one of the radii {self.radii[1:]}, got {self.eps:g}")

    def models(self) -> Iterator[tuple[int, str]]:
        """Seed and name of each model, in order."""
        return itertools.product(range(self.seeds), MODELS)

    def training(self, model: str, seed: int) -> TrainConfig:
        """The settings of one model."""
        if model == ROBUST:
            return replace(self.config, seed=seed)
        return replace(self.config, seed=seed, eps=0.0, kappa=0.0)

    def evaluations(self, model: str, seed: int) -> list[Stage]:
        """What is done with one model, in order."""
        stages = [
            Stage(seed, model, Certification(Interval(), eps), limit=self.limit)
            for eps in self.radii
        ]
        at_eps = Certification(Interval(), self.eps)
        stages.append(Stage(seed, model, at_eps, clipped=False, limit=self.limit))
        for eps in self.radii[1:]:
            limit = self.limit if eps == self.eps else self._first()
            stages.append(Stage(seed, model, AttackRun(self.pgd, eps), limit=limit))
        return stages

    def stages(self) -> Iterator[Stage]:
        """All stages, in order."""
        for seed, model in self.models():
            yield Stage(seed, model)
            yield from self.evaluations(model, seed)

    def identity(self, data: DataSet) -> dict[str, Any]:
        """What a run must share with the one that it resumes; JSON values."""
        settings = {f"training_{k}": v for k, v in self.config.to_mapping().items() if k != "seed"}
        own = asdict(self) | {"radii": list(self.radii), "pgd": asdict(self.pgd)}
        del own["config"]
        return {
            **settings,
            **own,
            "data_digest": data.digest,
            "domain": describe_domain(data.domain),
        }

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
        folder = claim_folder(out, "figure2", self.identity(data), resume)
        progress = progress or Progress()
        count, numbers = sum(1 for _ in self.stages()), itertools.count(1)
        with thread_count(self.config.threads or torch.get_num_threads()):
            for seed, model in self.models():
                training = Stage(seed, model)
                progress.stage(next(numbers), count, str(training))
                network = self._train(training, data, folder / training.folder, spec, progress)
                for stage in self.evaluations(model, seed):
                    progress.stage(next(numbers), count, str(stage))
                    _evaluate(stage, network, data, folder / stage.folder, progress)
        return folder

    def _train(
        self, stage: Stage, data: DataSet, place: Path, spec: str | None, progress: Progress
    ) -> StoredNetwork:
        """The trained network, as its file holds it."""
        config = self.training(stage.model, stage.seed)
        Trainer(data, config, place, spec=spec, resume=True, progress=progress).run()
        return load_model(place / MODEL)

    def _first(self) -> int:
        return self.attacked if self.limit is None else min(self.attacked, self.limit)


def _evaluate(
    stage: Stage, network: StoredNetwork, data: DataSet, place: Path, progress: Progress
) -> None:
    if stage.job is not None:
        samples = Samples.of(data, network, stage.limit, data.domain if stage.clipped else None)
        evaluate(
            stage.job,
            network,
            samples,
            batch_size=_BATCH,
            out=place,
            resume=True,
            progress=progress.samples,
        )
