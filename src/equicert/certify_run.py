"""What `equicert certify` does with each batch: one eps, or each sample's largest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from equicert.bounds import Method
from equicert.boxes import Surroundings
from equicert.certification import decide_boxes
from equicert.deployed import Deployed, deployed_by
from equicert.errors import InputError
from equicert.jobs import Chunk, Samples
from equicert.radius import check_bisectable, check_span, decide_radii
from equicert.stored import StoredNetwork


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

    def by(self, deadline: float) -> Self:
        """What is left to do of it by that moment of time.monotonic, if its time is limited."""
        if self.method.total is None:
            return self
        return replace(self, method=self.method.within(deadline - time.monotonic()))

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, beside model and data."""
        if self.eps is not None:
            as_run = {} if self.tolerance is None else {"deployed": f"float32, {self.tolerance!r}"}
            times = {n: s for n in ("timeout", "total") if (s := getattr(self.method, n, None))}
            return {"method": self.method.name, "eps": self.eps, **as_run, **times}
        span = {"largest": self.largest, "resolution": self.resolution}
        return {"method": self.method.name, "eps": None, **span}

    def chunks(self, network: StoredNetwork, samples: Samples, batch_size: int) -> Iterator[Chunk]:
        """Verdicts batch by batch."""
        x, y, domain = samples.x, samples.y, samples.domain
        if self.eps is not None:
            boxes, deployed = Surroundings(x, self.eps, domain), self._deployed(network)
            for decided in decide_boxes(network, x, y, boxes, self.method, batch_size, deployed):
                lines = [verdict.to_json() for verdict in decided.verdicts]
                eps = np.full(len(lines), self.eps)
                yield Chunk(lines, decided.proofs, eps, decided.findings)
            return
        for radii in decide_radii(
            network,
            x,
            y,
            self.method,
            domain=domain,
            largest=self.largest,
            resolution=self.resolution,
            batch_size=batch_size,
        ):
            lines = [{**f.verdict.to_json(), "radius": f.radius} for f in radii.found]
            eps = np.array([f.radius for f in radii.found], np.float64)  # None is NaN
            yield Chunk(lines, radii.proofs, eps)

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
            if self.method.hunts:
                found["falsified"] = count["falsified"] / len(lines)
                found["decided_by"] = dict(
                    Counter(line["method"] for line in lines if line["status"] != "unknown")
                )
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
