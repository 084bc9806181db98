"""The one interface of all methods: a network and a query in, an answer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from equicert import kernels
from equicert.boxes import Box
from equicert.enclosures import Enclosure
from equicert.errors import InputError
from equicert.operators import Dense
from equicert.queries import Answer, Query, StateBox
from equicert.rounding import down, gamma, up
from equicert.stored import StoredNetwork

_ROWS_TOGETHER = 512  # rows of several forms that are bounded in one product


class Method(ABC):
    """A way to bound linear forms of y over boxes of inputs."""

    name: str
    proves: bool = True  # False: its bounds are floating-point claims, and nothing is certified
    post_fixed: bool = False  # True: what is certified follows from a state box over the query's
    # box that passed the post-fixed-point test, and so can be written down as a certificate
    trees: bool = False  # True: or from trees of dual bounds, which are certificates of
    # piecewise-linear networks only
    hunts: bool = False  # True: it looks for witnesses in the query's inner boxes, too
    bisects: bool = True  # False: too costly to be asked at one radius after the other
    together: int = 1000  # samples a batch, at most: what is lost when a run is killed
    total: float | None = None  # seconds for all that is asked together, if there is a limit

    @abstractmethod
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        """Lower bounds on every form of the query, rigorous if the method `proves`.

        Raises:
            NotContractingError, NotMonotoneError: the network is not proved well-posed in the way
                that this method needs.
            RoundingError: this machine's arithmetic is not plain float64.
            InputError: the query does not fit the network.
        """

    def within(
        self,
        seconds: float,  # perhaps not positive
    ) -> Method:
        """The same method with so much of its `total` left."""
        del seconds
        return self


class StateBoxMethod(Method, ABC):
    """A method that proves one box for z*(x) and bounds every form over it."""

    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        return answer_from_state(network, query, self.state_box(network, query.box))

    @abstractmethod
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        """Proved bounds on z*(x) over each box of inputs.

        Raises:
            NotContractingError: as `Method.answer`.
            InputError: the box has another width than the network's inputs.
        """


def check_forms(network: StoredNetwork, query: Query) -> None:
    """Raise InputError unless the forms have one column an output."""
    if any(forms.A.shape[1] != network.outputs for forms in query.forms):
        raise InputError(
            f"the forms of a query on this network need {network.outputs} columns, one an output;"
            f" got {sorted({forms.A.shape[1] for forms in query.forms})}"
        )


def unproved(network: StoredNetwork, reasons: Sequence[str]) -> StateBox:
    """The range of phi for every state: true, and said to prove nothing."""
    phi, shape = network.activation, (len(reasons), network.states)
    lo, hi = network.b.new_full(shape, phi.lower), network.b.new_full(shape, phi.upper)
    nothing = torch.zeros(len(reasons), dtype=torch.bool, device=lo.device)
    return StateBox(lo, hi, nothing, tuple(reasons))


def undecided(network: StoredNetwork, query: Query, reason: str) -> Answer:
    """The answer that nothing was proved of any sample, for one reason."""
    rows = query.forms[0].rows if query.forms else 0
    lower = query.box.lo.new_full((query.box.batch, rows), -torch.inf)
    return Answer(query, lower, unproved(network, (reason,) * query.box.batch))


def answer_from_state(network: StoredNetwork, query: Query, state: StateBox) -> Answer:
    """Bound every form over the state box by elision: one product per form, (10) of [J22].

    Raises:
        InputError: a form has another width than the network's outputs.
    """
    check_forms(network, query)
    rows = query.forms[0].rows if query.forms else 0
    lower = state.lo.new_full((query.box.batch, rows), -torch.inf)
    together = max(1, _ROWS_TOGETHER // max(rows, 1))
    for first in range(0, len(query.forms), together):
        block = query.forms[first : first + together]
        chosen = (query.which >= first) & (query.which < first + together)
        # All forms of the block for all of its samples: more products, but few and large ones.
        A, d = (torch.cat(parts) for parts in zip(*((f.A, f.d) for f in block), strict=True))
        each = torch.arange(rows, device=lower.device)
        only = (query.which[chosen, None] - first) * rows + each
        lower[chosen] = _lower_bounds(network, A, d, state.lo[chosen], state.hi[chosen], only)
    usable = state.proved[:, None] & ~lower.isnan()
    return Answer(query, torch.where(usable, lower, -torch.inf), state)


def farthest(
    x: Tensor,  # (batch, r)
    box: Box,
) -> Tensor:  # (batch,)
    """The greatest distance in the sup-norm from x to a point of its box, rounded to nearest."""
    if kernels.encloses(x, box.lo, box.hi):
        return kernels.farthest(x, box.lo, box.hi)
    return torch.maximum((box.hi - x).amax(-1), (x - box.lo).amax(-1))


def _lower_bounds(
    network: StoredNetwork,
    A: Tensor,  # (k, q)
    d: Tensor,  # (k,)
    lo: Tensor,  # (batch, n)
    hi: Tensor,  # (batch, n)
    only: Tensor,  # (batch, rows) int64, the forms that each row asks for
) -> Tensor:  # (batch, rows)
    """Lower bounds on those of `A (C z + c) + d` over [lo, hi], all rounding included.

    The rows `A C` are formed in floating point; what that loses, at most
    `gamma_q |A| |C|` and underflow entrywise, is charged against the size of z.
    """
    rows = A @ network.C
    absolute = Enclosure.of(Dense(A))
    lost = gamma(network.outputs + 2) * absolute.magnitude_above(network.C.abs().mT).mT
    image, _ = Enclosure.of(Dense(rows)).image(lo, hi, only=only)
    size = torch.maximum(lo.abs(), hi.abs())
    charged = Enclosure.of(Dense(up(lost))).magnitude_above(size, only)
    constant, _ = absolute.image(network.c[None], network.c[None])
    return down(down(image - charged) + down(constant + d)[0][only])
