"""What a comparison says of each model, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from equicert.experiments.verdicts import Contradiction
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class Named:
    """A network and what the comparison calls it."""

    name: str
    network: StoredNetwork


@dataclass(frozen=True)
class Certified:
    """What one method proved of one model.

    Attributes:
        method: its name in verdicts.
        accuracy: the fraction of all samples that are certified; None where it does not apply.
        seconds: for all samples, without the proof that the network is well-posed.
        reasons: of the samples that are unknown, by reason.
        why_not: why it does not apply; else "".
    """

    method: str
    accuracy: float | None
    seconds: float | None
    reasons: Mapping[str, int]
    why_not: str


@dataclass(frozen=True)
class Attacked:
    """What the attack left of one model.

    Attributes:
        accuracy: the fraction of all samples that are unbroken; None where it was not possible.
        attacked: how many samples were: those that are classified correctly.
        seconds: for all of them.
        why_not: why it was not possible; else "".
    """

    accuracy: float | None
    attacked: int | None
    seconds: float | None
    why_not: str


@dataclass(frozen=True)
class Compared:
    """One model of the comparison; accuracies are fractions of all samples.

    Attributes:
        name: which it is.
        digest: of its weights.
        activation: phi.
        states: n.
        parameters: entries of the stored W, U, b, C and c.
        nonzero: those that are not 0.
        contracting, monotone: which proofs of a unique fixed point were found.
        clean: accuracy at the samples themselves; None where no output is known.
        attack: by PGD.
        certificates: by method.
        contradictions: samples that a method certified and the attack broke. There must be none.
    """

    name: str
    digest: str
    activation: str
    states: int
    parameters: int
    nonzero: int
    contracting: bool
    monotone: bool
    clean: float | None
    attack: Attacked
    certificates: tuple[Certified, ...]
    contradictions: tuple[Contradiction, ...]

    @property
    def best(self) -> float | None:
        """The largest certified accuracy, None where no method applies."""
        found = [c.accuracy for c in self.certificates if c.accuracy is not None]
        return max(found, default=None)
