"""An attack on a whole data set, as `evaluation` runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from equicert.attacks import Attack
from equicert.boxes import Surroundings
from equicert.jobs import Chunk, Samples
from equicert.stored import StoredNetwork


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

    def chunks(self, network: StoredNetwork, samples: Samples, batch_size: int) -> Iterator[Chunk]:
        """Attacks batch by batch."""
        for begin in range(0, len(samples.x), batch_size):
            rows = slice(begin, begin + batch_size)
            found = self.attack.run(
                network, samples.x[rows], samples.y[rows], self.eps, samples.domain
            )
            lines = [
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
            yield Chunk(lines)

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
