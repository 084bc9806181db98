"""What the demo does: train on digits, certify by two methods, attack, and compare the two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from equicert.attack_run import AttackRun
from equicert.attacks import FGSM, PGD
from equicert.bounds import Interval, Lipschitz
from equicert.certify_run import Certification
from equicert.cli import console
from equicert.cli.options import DemoOptions
from equicert.data import DataSet, load_data
from equicert.evaluation import evaluate
from equicert.experiments.verdicts import (
    ContradictionError,
    Lines,
    attacks_on_proved,
    clean_share,
    largest_proved,
    share,
)
from equicert.figures import AccuracyRow
from equicert.inspection import Inspection, inspect_network
from equicert.jobs import Samples
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import METRICS, MODEL, Trainer

TRAIN: Final = "train"
_BATCH: Final = 180  # small enough for the progress bar to move


@dataclass(frozen=True)
class Plan:
    """Settings of the demo.

    Attributes:
        config: of the training run.
        radii: where all samples are certified and attacked.
        eps: the one of them that the report dwells on, used in training.
        limit: number of test samples; None for all.
        pgd: the strong attack; FGSM has no settings.
        quick: whether this is the quick demo.
        largest: the largest certified radius looked for.
    """

    config: TrainConfig
    radii: tuple[float, ...]
    eps: float
    limit: int | None
    pgd: PGD
    quick: bool = False
    largest: float = 0.5

    @classmethod
    def of(cls, options: DemoOptions, *, quick: bool) -> Plan:
        """The full or the quick demo.

        The matrices are small: more threads would only wait for one another.

        Raises:
            ConfigError: a seed or a number of threads out of range.
        """
        settings: dict[str, Any] = {
            "eps": 0.1,
            "activation": "leaky_relu(0.1)",
            "batch_size": 100,
            "learning_rate": 0.014,
            "learning_rate_late": 0.0014,
            "dtype": "float64",
            "seed": options.seed,
            "threads": 1 if options.threads is None else options.threads,
        }
        if quick:
            config = TrainConfig(hidden=40, epochs=20, evaluate_samples=100, **settings)
            return cls(config, (0.02, 0.05, 0.1), config.eps, 120, PGD(10), quick=True)
        config = TrainConfig(hidden=100, epochs=80, **settings)
        radii = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2)
        return cls(config, radii, config.eps, None, PGD(40))


@dataclass(frozen=True)
class Findings:
    """What the demo found.

    Attributes:
        verdicts: lines by (job, eps); jobs are those of `_jobs`.
        reached: lines with each sample's largest certified radius, by method.
        rows: accuracies by radius.
        clean: clean accuracy.
        attacked: pairs of a sample and a radius that were certified and then attacked in vain.
        seconds: by stage.
    """

    plan: Plan
    data: DataSet
    samples: Samples
    network: StoredNetwork
    metrics: Lines
    verdicts: dict[tuple[str, float], Lines]
    reached: dict[str, Lines]
    rows: list[AccuracyRow]
    clean: float
    attacked: int
    inspection: Inspection
    seconds: dict[str, float]


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def study(plan: Plan, folder: Path, clock: Clock, *, quiet: bool) -> Findings:
    """Carry out the plan, with everything that decides a number written below `folder`.

    Raises:
        ContradictionError: an attack broke what was certified.
        EquicertError: whatever training or certifying raises.
    """
    with clock.stage("reading the data"):
        data = load_data("digits")
    with clock.stage("training"), console.training_progress(quiet) as progress:
        Trainer(data, plan.config, folder / TRAIN, progress=progress).run()
    network = load_model(folder / TRAIN / MODEL)  # what is certified is what the file holds
    samples = Samples.of(data, network, plan.limit, data.domain)
    jobs = _jobs(plan)
    verdicts: dict[tuple[str, float], Lines] = {}
    reached: dict[str, Lines] = {}
    with console.progress("certifying and attacking", quiet) as bar:
        for number, (stage, name, job) in enumerate(jobs):
            where = folder / name / ("radius" if job.eps is None else f"eps-{job.eps:g}")

            def show(done: int, total: int, before: int = number) -> None:
                if bar is not None:
                    bar(before * total + done, len(jobs) * total)

            with clock.stage(stage):
                evaluate(job, network, samples, batch_size=_BATCH, out=where, progress=show)
            lines = read_lines(where / "verdicts.jsonl")
            if job.eps is None:
                reached[name] = lines
            else:
                verdicts[name, job.eps] = lines
    rows, clean = _accuracies(plan, verdicts, reached)
    attacked = require_consistent(verdicts, reached)
    metrics = read_lines(folder / TRAIN / METRICS)
    inspection = inspect_network(network)
    return Findings(
        plan,
        data,
        samples,
        network,
        metrics,
        verdicts,
        reached,
        rows,
        clean,
        attacked,
        inspection,
        clock.seconds,
    )


def require_consistent(verdicts: dict[tuple[str, float], Lines], reached: dict[str, Lines]) -> int:
    """Check that no attack broke a certified sample, at its radius or at any smaller one.

    Returns:
        the number of attacks on certified boxes, all in vain.

    Raises:
        ContradictionError: one was not.
    """
    found = [(line, line["radius"]) for lines in reached.values() for line in lines]
    for (_, eps), lines in verdicts.items():
        found += [(line, eps) for line in lines if line["status"] == "certified"]
    proved = largest_proved((line["index"], eps) for line, eps in found if eps is not None)
    attacks = [(eps, lines) for (name, eps), lines in verdicts.items() if name[:6] == "attack"]
    attacked, broken = attacks_on_proved(proved, attacks)
    if broken:
        raise ContradictionError(broken)
    return attacked


def standings(found: Findings) -> list[str]:
    """Of each sample at the main eps: certified, undecided, broken or misclassified."""
    names = ("certify-lipschitz", "certify-interval", "attack-fgsm", "attack-pgd")
    each = zip(*(found.verdicts[name, found.plan.eps] for name in names), strict=True)
    return [_standing({line["status"] for line in lines}) for lines in each]


def _standing(said: set[str]) -> str:
    return next(
        (word for word in ("certified", "misclassified", "broken") if word in said), "undecided"
    )


def _jobs(plan: Plan) -> list[tuple[str, str, Certification | AttackRun]]:
    """(stage, folder, job) for every radius, and the bisection for the largest one."""
    jobs: list[tuple[str, str, Certification | AttackRun]] = []
    for method, label in ((Lipschitz(), "(13)"), (Interval(), "(14)")):
        stage, name = f"certifying by {label}", f"certify-{method.name}"
        jobs += [(stage, name, Certification(method, eps)) for eps in plan.radii]
        search = Certification(method, None, plan.largest, 1e-3)
        jobs.append((f"largest radii by {label}", name, search))
    for attack, label in ((FGSM(), "FGSM"), (plan.pgd, "PGD")):
        runs = [AttackRun(attack, eps) for eps in plan.radii]
        jobs += [(f"attacking by {label}", f"attack-{run.name}", run) for run in runs]
    return jobs


def _accuracies(
    plan: Plan, verdicts: dict[tuple[str, float], Lines], reached: dict[str, Lines]
) -> tuple[list[AccuracyRow], float]:
    """A row for eps = 0, where attacks have no room, and one for each radius; clean accuracy."""
    first = verdicts["attack-pgd", plan.radii[0]]
    clean = clean_share(first)
    at_all = {
        name: sum(line["radius"] is not None for line in lines) / len(lines)
        for name, lines in reached.items()
    }
    rows = [AccuracyRow(0.0, at_all["certify-lipschitz"], at_all["certify-interval"], clean, clean)]
    rows += [
        AccuracyRow(
            eps,
            share(verdicts["certify-lipschitz", eps], "certified"),
            share(verdicts["certify-interval", eps], "certified"),
            share(verdicts["attack-pgd", eps], "unbroken"),
            share(verdicts["attack-fgsm", eps], "unbroken"),
        )
        for eps in plan.radii
    ]
    return rows, clean
