"""Verdicts for a whole data set, written down as they become known: certify and attack."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equicert.attacks import Attack
from equicert.bounds import Method
from equicert.boxes import Domain, Surroundings
from equicert.certification import certify_boxes
from equicert.data import DataSet
from equicert.deployed import Deployed, deployed_by
from equicert.errors import InputError
from equicert.radius import certified_radii, check_bisectable, check_span
from equicert.runs import JsonLines, RunFolder, claim_folder, read_lines, versions
from equicert.stored import StoredNetwork

Progress = Callable[[int, int], None]  # (samples done, samples in all)


@dataclass(frozen=True)
class Samples:
    """The samples of an evaluation: the first `limit` of a test split, and their domain."""

    x: Tensor  # (N, r) float64
    y: Tensor  # (N,) int64
    domain: Domain
    data: str
    digest: str

    @classmethod
    def of(
        cls, data: DataSet, network: StoredNetwork, limit: int | None, domain: Domain
    ) -> Samples:
        """The test split, checked against the network.

        Raises:
            InputError: the data does not fit the network, or limit is not positive.
        """
        if data.inputs != network.inputs:
            raise InputError(
                f"the data does not fit the model: '{data.name}' has {data.inputs} inputs a sample,"
                f" the network takes {network.inputs}"
            )
        if int(data.y_test.max()) >= network.outputs:
            raise InputError(
                f"the data does not fit the model: '{data.name}' has labels up to"
                f" {int(data.y_test.max())}, the network has {network.outputs} outputs"
            )
        if limit is not None and limit < 1:
            raise InputError(f"limit must be at least 1, got {limit}")
        x, y = torch.from_numpy(data.x_test[:limit]), torch.from_numpy(data.y_test[:limit])
        return cls(x, y, domain, data.name, data.digest)


@dataclass(frozen=True)
class Certification:
    """Certify at one eps, or (eps None) find each sample's largest certified radius.

    With a `tolerance`, say also what is certified of the float32 program that stops there.
    """

    method: Method
    eps: float | None
    largest: float = 1.0
    resolution: float = 1e-4
    tolerance: float | None = None
    kind = "certify"

    def check(self, network: StoredNetwork, samples: Samples) -> None:
        """Raise what would fail later, before an output folder is claimed."""
        self._deployed(network)
        Surroundings(samples.x, self.largest if self.eps is None else self.eps, samples.domain)
        check_span(self.largest, self.resolution)
        if self.eps is None:
            check_bisectable(self.method)

    def _deployed(self, network: StoredNetwork) -> Deployed | None:
        if self.tolerance is None:
            return None
        if self.eps is None:
            raise InputError("the float32 program is certified at one eps, not for a radius")
        return deployed_by(self.method, network, self.tolerance)

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, beside model and data."""
        if self.eps is not None:
            as_run = {} if self.tolerance is None else {"deployed": f"float32, {self.tolerance!r}"}
            return {"method": self.method.name, "eps": self.eps, **as_run}
        span = {"largest": self.largest, "resolution": self.resolution}
        return {"method": self.method.name, "eps": None, **span}

    def chunks(
        self, network: StoredNetwork, samples: Samples, batch_size: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Verdict lines without index and time, a list per batch."""
        x, y, domain = samples.x, samples.y, samples.domain
        if self.eps is not None:
            boxes, deployed = Surroundings(x, self.eps, domain), self._deployed(network)
            for chunk in certify_boxes(network, x, y, boxes, self.method, batch_size, deployed):
                yield [verdict.to_json() for verdict in chunk]
            return
        for found in certified_radii(
            network,
            x,
            y,
            self.method,
            domain=domain,
            largest=self.largest,
            resolution=self.resolution,
            batch_size=batch_size,
        ):
            yield [{**f.verdict.to_json(), "radius": f.radius} for f in found]

    def summary(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Accuracies as fractions of all samples."""
        count = Counter(line["status"] for line in lines)
        correct = sum(line["predicted"] == line["label"] for line in lines)
        found: dict[str, Any] = {"clean_accuracy": correct / len(lines)}
        if self.eps is None:
            radii = np.array([-1.0 if v["radius"] is None else v["radius"] for v in lines])
            grid = [self.largest * k / 20 for k in range(21)]
            found["radius_median"] = float(np.median(radii.clip(min=0)))
            found["certified_accuracy_at"] = {f"{e:g}": float((radii >= e).mean()) for e in grid}
        else:
            found["certified_accuracy"] = count["certified"] / len(lines)
        if self.tolerance is not None:
            as_run = sum(line["deployed"] == "certified" for line in lines)
            found["deployed_certified_accuracy"] = as_run / len(lines)
            whys = Counter(line["deployed_reason"] for line in lines if line["deployed_reason"])
            found["deployed_reasons"] = dict(whys)
        if not self.method.proves:
            found["claimed_accuracy"] = count["claimed"] / len(lines)
            found["solver_statuses"] = dict(
                Counter(line.get("solver_status", "not asked") for line in lines)
            )
        reasons = Counter(line["reason"] for line in lines if line["reason"])
        return found | {"unknown": count["unknown"], "reasons": dict(reasons)}


@dataclass(frozen=True)
class AttackRun:
    """Attack every correctly classified sample at one eps."""

    attack: Attack
    eps: float
    kind = "attack"

    @property
    def name(self) -> str:
        """Of the attack: "fgsm", "pgd", "autoattack"."""
        return type(self.attack).__name__.lower()

    def check(self, network: StoredNetwork, samples: Samples) -> None:
        """Raise InputError for what would fail later, before an output folder is claimed."""
        del network
        Surroundings(samples.x, self.eps, samples.domain)

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, beside model and data."""
        return {"attack": repr(self.attack), "eps": self.eps}

    def chunks(
        self, network: StoredNetwork, samples: Samples, batch_size: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Attack lines without index and time, a list per batch."""
        for begin in range(0, len(samples.x), batch_size):
            rows = slice(begin, begin + batch_size)
            found = self.attack.run(
                network, samples.x[rows], samples.y[rows], self.eps, samples.domain
            )
            yield [
                {
                    "status": status,
                    "label": int(label),
                    "predicted": int(clean),
                    "adversarial": int(moved),
                    "margin": float(margin),
                    "method": self.name,
                    "forward_solves": float(forward),
                    "adjoint_solves": float(adjoint),
                }
                for status, label, clean, moved, margin, forward, adjoint in zip(
                    found.status,
                    samples.y[rows],
                    found.predicted,
                    found.adversarial_predicted,
                    found.margin,
                    found.forward_solves,
                    found.adjoint_solves,
                    strict=True,
                )
            ]

    def summary(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Accuracies as fractions of all samples, and how many fixed points the attack took."""
        count = Counter(line["status"] for line in lines)
        solves = {
            name: round(sum(line[name] for line in lines))
            for name in ("forward_solves", "adjoint_solves")
        }
        return solves | {
            "clean_accuracy": 1 - count["misclassified"] / len(lines),
            "robust_accuracy": count["unbroken"] / len(lines),
            "broken": count["broken"],
        }


def evaluate(
    job: Certification | AttackRun,
    network: StoredNetwork,
    samples: Samples,
    *,
    batch_size: int = 1000,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a job over all samples and return its summary.

    Raises:
        OutputError, InputError: as `evaluate_lines`.
    """
    found = evaluate_lines(
        job, network, samples, batch_size=batch_size, out=out, resume=resume, progress=progress
    )
    return found.summary


@dataclass(frozen=True)
class Evaluation:
    """What a job found: a line a sample, as in `verdicts.jsonl`, and what they say together."""

    lines: list[dict[str, Any]]
    summary: dict[str, Any]


def evaluate_lines(
    job: Certification | AttackRun,
    network: StoredNetwork,
    samples: Samples,
    *,
    batch_size: int = 1000,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a job over all samples and return its lines, too.

    With `out`, `verdicts.jsonl` gains a line a sample as it is decided and `summary.json` is
    written at the end; a killed run continues with `resume` after its last whole line.

    Raises:
        OutputError: the folder holds another run or cannot be written.
        InputError: as `certify`.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    job.check(network, samples)
    identity = {
        "model": network.digest,
        "data": samples.digest,
        "samples": len(samples.x),
        "domain": _plain_domain(samples.domain),
        **job.identity(),
    }
    folder = claim_folder(out, job.kind, identity, resume) if out is not None else None
    lines = _decide_all(job, network, samples, batch_size, folder, progress)
    summary = {"data": samples.data, **_without(identity, "data"), "data_digest": samples.digest}
    summary |= job.summary(lines)
    summary |= {"seconds": sum(line["seconds"] for line in lines), "versions": versions()}
    if folder is not None:
        folder.write("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return Evaluation(lines, summary)


def _decide_all(
    job: Certification | AttackRun,
    network: StoredNetwork,
    samples: Samples,
    batch_size: int,
    folder: RunFolder | None,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    path = None if folder is None else folder / "verdicts.jsonl"
    with nullcontext() if path is None else JsonLines(path) as sink:
        lines = read_lines(path) if path is not None else []
        # A batch that a kill cut short is done again whole: the last bits of a product depend on
        # the number of rows, and a resumed run is to write what an unbroken one does.
        index = len(lines) - len(lines) % batch_size if len(lines) < len(samples.x) else len(lines)
        rest = Samples(samples.x[index:], samples.y[index:], samples.domain, samples.data, "")
        clock = time.perf_counter()
        for chunk in job.chunks(network, rest, batch_size) if len(rest.x) else ():
            each = (time.perf_counter() - clock) / len(chunk)
            fresh = chunk[len(lines) - index :]
            index += len(chunk)
            added = [
                {"index": len(lines) + k, **fields, "seconds": each}
                for k, fields in enumerate(fresh)
            ]
            lines += added
            if sink is not None:
                sink.extend(added)
            if progress is not None:
                progress(len(lines), len(samples.x))
            clock = time.perf_counter()
    return lines


def _plain_domain(domain: Domain) -> list[Any] | None:
    return None if domain is None else [np.asarray(end).tolist() for end in domain]


def _without(items: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in items.items() if k != key}
