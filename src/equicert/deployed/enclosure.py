"""Bounds on all that the float32 program can return for the inputs of a box (derived here).

From a proved box Z of z*(x), with z1 the state that a pass ends on and z0 the one before it:

    |z1 - z*(x)| <= e   for any e > 0 with   F(e + t) <= e,   where   |z1 - z0| <= t,

F as in `step` with `L = 1/(1 - W_ii)`. It assumes IEEE single precision and plain products, as
`rounding` does of double precision; docs/soundness.md has the argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from equicert.bounds import Method
from equicert.bounds.base import StateBoxMethod
from equicert.boxes import Box
from equicert.deployed.program import LARGEST, TOO_CLOSE, deploy, reproducible_proof
from equicert.deployed.step import SLACK, RoundedStep
from equicert.enclosures import Enclosure
from equicert.errors import InputError, ModelError
from equicert.operators import Dense
from equicert.queries import Answer, Query, StateBox
from equicert.rounding import TINY32, UNIT32, down, gamma, self_test_single, up
from equicert.stored import StoredNetwork

_STEEPEST = 2.0**-6  # largest relative error of a slope of psi for which first order is enough
_WIDENINGS = (1e-12, 1e-9, 1e-6, 1e-3)
_REFINEMENTS = 30
_REASON = "float32 rounding"


@dataclass(frozen=True)
class Deployed:
    """A stored network, and bounds on what the float32 program `deploy(network)` returns.

    Attributes:
        network: the network in real arithmetic.
        tolerance: at which the program stops each sample.
        step: the rounding of the program's steps.
    """

    network: StoredNetwork
    tolerance: float
    step: RoundedStep

    @classmethod
    def of(cls, network: StoredNetwork, tolerance: float = 1e-4) -> Deployed:
        """Check that there are bounds for this network and this machine.

        Raises:
            ConfigError, ModelError, NotContractingError: as `deploy`; ModelError also where float32
                is too coarse for the network.
            RoundingError: this machine's float32 products are not plain ones.
        """
        self_test_single()
        step = RoundedStep(network, reproducible_proof(deploy(network, tolerance)))
        if not bool((step.room > 0).all() & (step.slope_error <= _STEEPEST).all()):
            raise ModelError(TOO_CLOSE)
        return cls(network, float(tolerance), step)

    @torch.no_grad()
    def answer(self, answer: Answer) -> Answer:
        """The same bounds, of the outputs that the program returns in the place of y.

        They hold for every real x of the boxes, rounded to float32, for which the program returns.
        The answer's state must enclose z*(x) for all x of the query's boxes.
        """
        query, state = answer.query, answer.state
        around = self._around(query.box, state)
        error, proved = self._enclose(around)
        forms = self._forms(query)
        lower = self._lower(answer, forms, error, proved)
        rows = ((lower <= 0) & (answer.lower > 0) & proved[:, None]).any(1).nonzero()[:, 0]
        if len(rows):
            part = _rows(answer, rows)
            finer = self._refine(around[rows], error[rows], part.query.box, part.state)
            lower[rows] = self._lower(part, forms, finer, proved[rows])
        reason = tuple(
            why or ("" if good else _REASON)
            for why, good in zip(state.reason, proved.tolist(), strict=True)
        )
        return replace(answer, lower=lower, state=replace(state, reason=reason))

    @torch.no_grad()
    def error(
        self, box: Box, state: StateBox, *, refined: bool = True
    ) -> tuple[Tensor, Tensor]:  # (batch, n), (batch,) bool
        """e, and where `|z1 - z*(x)| <= e` is proved for every x of the box.

        z1 is the state on which the program ends for x, rounded to float32. `refined` costs the
        products of a step more, and uses that psi is flat, or less steep, over some of the boxes.
        """
        around = self._around(box, state)
        error, proved = self._enclose(around)
        return self._refine(around, error, box, state) if refined else error, proved

    def _around(self, box: Box, state: StateBox) -> _Around:
        """All that the bounds need to know of a batch of boxes.

        Every iterate lies within delta eta of z*(x). Underflow, and the test that nothing
        overflows, take a cap on delta, which delta is then compared with.
        """
        step, eta, network = self.step, self.step.proof.eta, self.network
        x = torch.maximum(-box.lo, box.hi)  # (batch, r) |x|
        z = torch.maximum(state.lo.abs(), state.hi.abs())  # (batch, n)
        drive = up(network.input_map.magnitude_above(x) + network.b.abs())
        column = network.off_diagonal.magnitude_above(z)
        cap = ((step.steepest * (column + drive) + z) / eta).amax(-1, keepdim=True)
        cap = 2.0**12 * cap + 2.0**-60 / eta.amin()
        largest = up(z + up(cap * eta)).amax(-1, keepdim=True)
        reach = 4 * up(up(column + up(cap * step.driven_by_eta)) + drive) + 4
        base = step.rounded(column, drive, largest, x.amax(-1, keepdim=True))
        own = step.own(z, reach)
        first = step.arrival(step.preactivation(column, base), own, step.steepest)
        q = step.arrival(base, own, step.steepest)
        delta = up(torch.maximum(up(first / eta), up(q / step.room)).amax(-1, keepdim=True))
        stop = step.stop(up(z + up(delta * eta)), self.tolerance)
        sizes = torch.cat([largest, reach, up(step.steepest * reach), x, stop], -1)
        safe = (sizes.amax(-1) < LARGEST) & (delta <= cap)[:, 0] & state.proved
        return _Around(base, own, q, step.last(stop), safe)

    def _enclose(self, around: _Around) -> tuple[Tensor, Tensor]:  # (batch, n), (batch,)
        """An e that passes `F(e + t) <= e`, and where it does.

        F(h) is `alpha A h + q` with q > 0, so e shows that alpha A has spectral radius below 1:
        `(I - alpha A)^-1 >= 0`, and e is no less than any h with `h <= F(h + t)`.
        """
        step, eta, last = self.step, self.step.proof.eta, around.last
        candidate = torch.mm(self._arrival(last, around), step.resolvent.mT).clamp_(min=0)
        e, passed = candidate, torch.zeros_like(around.safe)
        for factor in _WIDENINGS:
            size = (candidate / eta).amax(-1, keepdim=True)
            wider = candidate * (1 + factor) + (factor * size + 2.0**-900) * eta
            image = self._arrival(up(wider + last), around)
            e = torch.where(passed[:, None], e, wider)
            passed = passed | ((image <= wider) & (around.q > 0)).all(-1)
            if bool(passed.all()):
                break
        return e, passed & around.safe

    def _apart(self, h: Tensor, around: _Around) -> Tensor:  # (batch, n)
        """p(h)."""
        return self.step.preactivation(self.network.off_diagonal.magnitude_above(h), around.base)

    def _arrival(self, h: Tensor, around: _Around) -> Tensor:  # (batch, n)
        """F(h) at the greatest slopes."""
        return self.step.arrival(self._apart(h, around), around.own, self.step.steepest)

    def _refine(
        self,
        around: _Around,
        error: Tensor,  # (batch, n) a proved e, where it is proved
        box: Box,
        state: StateBox,
    ) -> Tensor:  # (batch, n)
        """A smaller e: `e <- min(e, F(e + t))`, each iterate of which is one.

        L bounds the slope of psi between the preactivations of z*(x) and of the program's last
        step, which are at most p(e + t) apart: a ReLU that is inactive there passes no error on.
        """
        network = self.network
        drive = network.drive_bounds(box.lo, box.hi)
        r_lo, r_hi = network.off_diagonal.image(state.lo, state.hi, drive)
        for _ in range(_REFINEMENTS):
            apart = self._apart(up(error + around.last), around)
            slope = self._slope(down(r_lo - apart), up(r_hi + apart))
            following = torch.minimum(error, self.step.arrival(apart, around.own, slope))
            done = bool((following >= 0.99 * error).all())
            error = following
            if done:
                break
        return error

    def _slope(
        self,
        r_lo: Tensor,  # (batch, n)
        r_hi: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, n)
        """Bounds on the slope of psi over [r_lo, r_hi]."""
        phi, d = self.network.activation, self.network.diagonal
        left, right = (up(s / down(1 - up(s * d))) for s in phi.slopes or (phi.beta, phi.beta))
        slope = torch.where(r_hi < 0, left, torch.where(r_lo > 0, right, self.step.steepest))
        beyond = up(1 - d)  # psi is at a limit where |r| exceeds it times the limit
        flat = (r_lo >= up(phi.upper * beyond)) | (r_hi <= down(phi.lower * beyond))
        return torch.where(flat, 0.0, slope)

    def _lower(
        self,
        answer: Answer,
        forms: list[tuple[Enclosure, Enclosure]],  # as `_forms`
        error: Tensor,  # (batch, n)
        proved: Tensor,  # (batch,) bool
    ) -> Tensor:  # (batch, k)
        """The answer's bounds less what a form of the program's outputs may lose.

        That is `|A C| e + |A| E`, E the rounding of the read-out: `gamma (|C| |z1| + |c|)`.
        """
        query, C, n = answer.query, self._read_out, self.network.states
        z1 = up(torch.maximum(answer.state.lo.abs(), answer.state.hi.abs()) + error)
        size = up(C.magnitude_above(z1) + self.network.c.abs())
        tiny = 16 * TINY32 * up((n + 4) * (1 + z1.amax(-1, keepdim=True)) + C.row_sums)
        E = up(up((gamma(n + 2, UNIT32) + self.step.weights) * SLACK * size) + tiny)
        E = torch.where(size < LARGEST, E, torch.inf)
        lower = torch.full_like(answer.lower, -torch.inf)
        for k, (through, absolute) in enumerate(forms):
            rows = (query.which == k) & proved
            lost = up(through.magnitude_above(error[rows]) + absolute.magnitude_above(E[rows]))
            lower[rows] = down(answer.lower[rows] - lost)
        return torch.where(lower.isnan(), -torch.inf, lower)

    def _forms(self, query: Query) -> list[tuple[Enclosure, Enclosure]]:
        """For each set of forms bounds on `|A C|`, rounding of that product included, and |A|."""
        found = []
        for forms in query.forms:
            absolute = Enclosure.of(Dense(forms.A.abs()))
            size = absolute.magnitude_above(self.network.C.abs().mT).mT  # |A| |C|
            formed = up(gamma(self.network.outputs + 2) * size)
            through = up((forms.A @ self.network.C).abs() + formed)
            found.append((Enclosure.of(Dense(through)), absolute))
        return found

    @cached_property
    def _read_out(self) -> Enclosure:
        return Enclosure.of(Dense(self.network.C))


def deployed_by(method: Method, network: StoredNetwork, tolerance: float) -> Deployed:
    """The bounds on the float32 program for answers of this method.

    Raises:
        InputError: the method bounds no state over whole boxes.
        ConfigError, ModelError, NotContractingError, RoundingError: as `Deployed.of`.
    """
    if not isinstance(method, StateBoxMethod):
        raise InputError(
            "certificates of the float32 program need bounds on the state over the whole box, which"
            f" '{method.name}' does not make; use interval, lipschitz or sign-split"
        )
    return Deployed.of(network, tolerance)


@dataclass(frozen=True)
class _Around:
    """What the bounds take of a batch of boxes: p(0), `rho |Z| + tiny`, F(0), t, what is safe."""

    base: Tensor  # (batch, n)
    own: Tensor  # (batch, n)
    q: Tensor  # (batch, n)
    last: Tensor  # (batch, n)
    safe: Tensor  # (batch,) bool

    def __getitem__(self, rows: Tensor) -> _Around:
        parts = (self.base, self.own, self.q, self.last, self.safe)
        return _Around(*(part[rows] for part in parts))


def _rows(answer: Answer, rows: Tensor) -> Answer:
    """The answer for some of its boxes."""
    query = replace(
        answer.query, box=answer.query.box[rows], which=answer.query.which[rows], x=None
    )
    return Answer(query, answer.lower[rows], answer.state[rows])
