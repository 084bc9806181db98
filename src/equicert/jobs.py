"""What is done with a data set, batch by batch: the samples, and what every job offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equicert.bounds.spectral import input_norm
from equicert.boxes import Domain
from equicert.certificates import BallClaim, Subject
from equicert.data import DataSet
from equicert.errors import InputError
from equicert.monotonicity import Monotone
from equicert.proofs import Finding, TreeProof, Witness
from equicert.queries import StateProofs
from equicert.stored import StoredNetwork


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

    def subject(self, network: StoredNetwork) -> Subject:
        """What certificates for these samples are about."""
        ball = None
        if isinstance(network.well_posed, Monotone):
            ball = BallClaim(network.monotone, input_norm(network))
        return Subject(network, self.x, self.domain, self.data, self.digest, ball)


@dataclass(frozen=True)
class Chunk:
    """What a job found of a batch.

    Attributes:
        lines: the verdicts, without index and time.
        proofs: what proves them, where that is state boxes.
        eps: (batch,) the radii of the boxes; of a search, those found.
        findings: per sample, other proofs and witnesses; empty if the method makes none.
    """

    lines: list[dict[str, Any]]
    proofs: StateProofs | None = None
    eps: NDArray[np.float64] | None = None
    findings: tuple[Finding | None, ...] = ()

    def others(self, first: int) -> dict[int, TreeProof | Witness]:
        """Trees and witnesses by place in the batch, from `first` on, as the verdicts call for."""
        found: dict[int, TreeProof | Witness] = {}
        for k, (line, finding) in enumerate(zip(self.lines, self.findings, strict=False)):
            if finding is None or k < first:
                continue
            if line["status"] == "certified" and finding.proof is not None:
                found[k] = finding.proof
            elif line["status"] == "falsified" and finding.witness is not None:
                found[k] = finding.witness
        return found


class Job(Protocol):
    """What is done with samples, batch by batch: `Certification`, `AttackRun`."""

    @property
    def kind(self) -> str:
        """The command: "certify", "attack"."""
        ...

    def check(self, network: StoredNetwork, samples: Samples) -> None:
        """Raise InputError for what would fail later, before an output folder is claimed."""

    def identity(self) -> dict[str, Any]:
        """What makes this run what it is, beside model and data."""
        ...

    def chunks(self, network: StoredNetwork, samples: Samples, batch_size: int) -> Iterator[Chunk]:
        """What is found of each batch."""
        ...

    def summary(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """What all lines say together."""
        ...
