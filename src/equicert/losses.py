"""Training losses of [J22]: (11), the worst case over boxes, and (8), a Lipschitz bound added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from equicert.boxes import Domain
from equicert.errors import InputError
from equicert.lipschitz import LipschitzBound
from equicert.network import ImplicitNetwork
from equicert.trainable import Trainable


@dataclass(frozen=True)
class Loss(ABC):
    """The loss of a batch.

    Attributes:
        total: scalar; differentiate this.
        nominal: scalar, cross-entropy of `y(x)`, or None where that plays no part in the total.
    """

    total: Tensor
    nominal: Tensor | None

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Tensor | None]:
        """What the total is made of beside the nominal loss, by its name in the metrics."""


@final
@dataclass(frozen=True)
class InclusionLoss(Loss):
    """The loss (11) of a batch and its parts.

    Attributes:
        total: scalar, `(1 - kappa) nominal + kappa robust`.
        nominal: scalar, cross-entropy of `y(x)`; None where kappa is 1.
        robust: scalar, cross-entropy of the worst-case logits; None where kappa is 0, since the
            embedded solve is skipped then.
        outputs: (batch, q), y(x); None where kappa is 1.
        margins: (batch, q), lower bounds on `y_label - y_j` over the box; 0 in the label's own
            column; None where kappa is 0.
    """

    robust: Tensor | None
    outputs: Tensor | None
    margins: Tensor | None

    @property
    def parts(self) -> Mapping[str, Tensor | None]:
        return {"robust_loss": self.robust}


@final
@dataclass(frozen=True)
class LipschitzLoss(Loss):
    """The loss (8) of a batch and its parts.

    Attributes:
        total: scalar, `nominal + weight * bound`.
        nominal: scalar, cross-entropy of `y(x)`.
        bound: scalar, the Lipschitz bound; None where the weight is 0, since it is not computed.
        outputs: (batch, q), y(x).
    """

    bound: Tensor | None
    outputs: Tensor

    @property
    def parts(self) -> Mapping[str, Tensor | None]:
        return {"lipschitz_bound": self.bound}


def inclusion_loss(
    network: Trainable,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64
    eps: float,
    kappa: float,
    domain: Domain = None,
) -> InclusionLoss:
    """`(1 - kappa) CE(y(x), label) + kappa CE(-m, label)`, (11) of [J22].

    m are the elided margins (10) over the state box of `[x - eps, x + eps]` within the domain,
    good to the network's tolerance: see `elided_margins`. One solve serves both parts.

    Example:
        >>> loss = inclusion_loss(network, x, labels, eps=0.1, kappa=0.75, domain=(0.0, 1.0))
        >>> loss.total.backward()

    Args:
        network: the network to train.
        x: inputs in the network's dtype, inside the domain.
        labels: classes, 0..q-1.
        eps: radius in the sup-norm, >= 0; at 0 the robust part is the nominal one.
        kappa: weight of the robust part, in [0, 1]; at 0 no embedded network is solved.
        domain: two numbers or two (r,) vectors to intersect the box with, or None.

    Raises:
        InputError: eps negative, infinite or NaN, kappa outside [0, 1], labels out of range, a
            point outside the domain.
        NotContractingError, NotConvergedError: as the network's own solves.
    """
    check_mixture(eps, kappa)
    _check_labels(labels, len(x), len(network.c))
    at = network.materialise()
    if kappa == 0 or eps == 0:
        y = network.read_out(network.state(x, at))
        nominal = cross_entropy(y, labels)
        if kappa == 0:
            return InclusionLoss(nominal, nominal, None, y, None)
        margins = y.gather(1, labels[:, None]) - y
        return InclusionLoss(nominal, nominal, nominal, y, margins)
    return loss_over(clipped_box(x, eps, domain), network, at, x, labels, kappa)


def loss_over(
    box: tuple[Tensor, Tensor],  # (batch, r) each
    network: Trainable,
    at: Any,  # of `materialise`
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64, in range
    kappa: float,  # in (0, 1]
) -> InclusionLoss:
    """`(1 - kappa) CE(y(x), label) + kappa CE(-m, label)`, m the margins over these very boxes."""
    if kappa == 1:
        zlo, zhi = network.reach(*box, at)
        margins = elided_margins(network.C, network.c, zlo, zhi, labels)
        robust = cross_entropy(-margins, labels)
        return InclusionLoss(robust, None, robust, None, margins)
    z, zlo, zhi = network.state_and_reach(x, *box, at)
    y = network.read_out(z)
    nominal = cross_entropy(y, labels)
    margins = elided_margins(network.C, network.c, zlo, zhi, labels)
    robust = cross_entropy(-margins, labels)
    return InclusionLoss((1 - kappa) * nominal + kappa * robust, nominal, robust, y, margins)


def lipschitz_loss(
    network: ImplicitNetwork,
    x: Tensor,  # (batch, r)
    labels: Tensor,  # (batch,) int64
    weight: float,
    bound: LipschitzBound,
) -> LipschitzLoss:
    """`CE(y(x), label) + weight * bound`, (8) of [J22].

    Example:
        >>> lipschitz_loss(network, x, labels, 1e-3, Derived()).total.backward()

    Args:
        network: the network to train.
        x: inputs in the network's dtype.
        labels: classes, 0..q-1.
        weight: lambda, >= 0; at 0 the bound is not computed.
        bound: which bound on the sup-norm Lipschitz constant of y.

    Raises:
        InputError: weight negative, infinite or NaN, labels out of range.
        RowSumError: the bound is not defined for the present W.
        NotContractingError, NotConvergedError: as the network's own solves.
    """
    if not 0 <= weight < torch.inf:
        raise InputError(f"weight must be finite and >= 0, got {weight!r}")
    _check_labels(labels, len(x), len(network.c))
    at = network.materialise()
    y = network.read_out(network.state(x, at))
    nominal = cross_entropy(y, labels)
    if weight == 0:
        return LipschitzLoss(nominal, nominal, None, y)
    value = bound.value(at, network.C)
    return LipschitzLoss(nominal + weight * value, nominal, value, y)


def check_mixture(eps: float, kappa: float) -> None:
    """Raise InputError unless eps is finite and >= 0 and kappa lies in [0, 1]."""
    if not 0 <= eps < torch.inf:
        raise InputError(f"eps must be finite and >= 0, got {eps!r}")
    if not 0 <= kappa <= 1:
        raise InputError(f"kappa must lie in [0, 1], got {kappa!r}")


def elided_margins(
    C: Tensor,  # (q, n)
    c: Tensor,  # (q,)
    zlo: Tensor,  # (batch, n)
    zhi: Tensor,  # (batch, n)
    labels: Tensor,  # (batch,) int64
) -> Tensor:  # (batch, q)
    """The least `(C_y - C_j) z + c_y - c_j` over z in [zlo, zhi], y the label: (10) of [J22].

    One product over the difference of rows: at least the lower bound on y_y less the upper bound
    on y_j, which lets z take two values at once. In centre-radius form,
    `(C_y - C_j) z_c + c_y - c_j - |C_y - C_j| z_r`; column y is exactly 0.
    """
    y = torch.addmm(c, zlo + zhi, C.mT, alpha=0.5)
    # For all pairs of rows in one product, (batch, q, q): no (batch, q, n) of gathered rows.
    spread = 0.5 * (C[:, None] - C).abs().flatten(0, 1)
    loss = ((zhi - zlo) @ spread.mT).unflatten(1, (len(C), len(C)))
    own = labels[:, None]
    lost = loss.gather(1, own[:, :, None].expand(-1, 1, len(C)))[:, 0]
    return y.gather(1, own) - y - lost


def clipped_box(
    x: Tensor,  # (batch, r)
    eps: float,
    domain: Domain = None,
) -> tuple[Tensor, Tensor]:  # (batch, r) each
    """`[max(x - eps, lo), min(x + eps, hi)]` in the arithmetic of x: for training, not proofs.

    A point outside the domain gives an inverted box, which `ImplicitNetwork.reach` refuses.
    """
    if domain is None:
        return x - eps, x + eps
    low, high = domain
    if isinstance(low, float | int) and isinstance(high, float | int):
        return (x - eps).clamp(min=low), (x + eps).clamp(max=high)
    low, high = (torch.as_tensor(end).to(x) for end in domain)
    return torch.maximum(x - eps, low), torch.minimum(x + eps, high)


def _check_labels(labels: Tensor, batch: int, classes: int) -> None:
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise InputError(
            f"labels must be int64 of shape ({batch},), got {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    if not len(labels):
        return
    least, most = labels.aminmax()
    if least < 0 or most >= classes:
        outside = (labels < 0) | (labels >= classes)
        row = int(outside.nonzero()[0])
        raise InputError(
            f"label {int(labels[row])} of sample {row} is out of range: the network has {classes}"
            f" outputs, so labels are 0..{classes - 1}"
        )
