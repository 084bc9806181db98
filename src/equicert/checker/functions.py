"""The activations: exact rationals, or enclosures with proved remainders.

Admitted are functions with `0 <= phi(s) - phi(t) <= s - t` for s >= t. It holds for `max(t, 0)`,
`max(t, 0) + a min(t, 0)` with a in [0, 1], `min(max(t, -1), 1)` and t: slopes in [0, 1], no jumps.
It holds by their derivatives for tanh (1 - tanh^2), sigmoid (s (1 - s)), softplus (sigmoid) and
ELU with alpha in [0, 1] (1, or alpha exp(t) for t < 0). Everything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from equicert.checker.files import NotValidError, UnreadableError

Enclosure = tuple[Fraction, Fraction]
Function = Callable[[Fraction, int], Enclosure]  # t, p -> bounds on phi(t), some 2^-p apart

_ZERO, _ONE = Fraction(0), Fraction(1)
FIRST_BITS, LAST_BITS = 96, 6144  # precision is doubled until a comparison is decided


def _exp_minus(s: Fraction, p: int) -> tuple[int, int, int]:
    """Integers lo, hi and w >= p with `lo <= 2^w exp(-s) <= hi`, for s >= 0.

    With h = s / 2^k <= 1/2, exp(h) is the sum of h^i / i!; a term is at most half the one before
    it, so all that follows a term is at most that term. The lower sum rounds every term down. The
    upper sum starts from an h rounded up, rounds every term up, and adds the last term, of one
    unit, a second time. `exp(-s) = (1 / exp(h))^(2^k)`, each division and square rounded outwards.
    For s > p it is exp(-s) < 2^-p, since e > 2.
    """
    if s > p:
        return 0, 1, p
    k = (s.numerator // s.denominator).bit_length() + 1
    w = p + 2 * k + 16
    low = (s.numerator << w) // (s.denominator << k)
    high = low + 1
    lower = term = 1 << w
    i = 0
    while term:
        i += 1
        term = (term * low >> w) // i
        lower += term
    upper = term = 1 << w
    i = 0
    while term > 1:
        i += 1
        term = -(-term * high // (i << w))
        upper += term
    upper += term
    lo, hi = (1 << 2 * w) // upper, -(-(1 << 2 * w) // lower)
    for _ in range(k):
        lo, hi = lo * lo >> w, -(-hi * hi >> w)
    return lo, hi, w


def _log1p(e: int, w: int, up: bool) -> int:
    """A bound on `2^w log(1 + e / 2^w)` for 0 <= e <= 2^w, from above or below.

    log(1 + v) = 2 (u + u^3/3 + u^5/5 + ...), u = v / (2 + v) <= 1/3, increasing in u: a term is at
    most a ninth of the one before it, so what follows a term is at most that term.
    """

    def divided(a: int, b: int) -> int:
        return -(-a // b) if up else a // b

    u = divided(e << w, (2 << w) + e)
    square = divided(u * u, 1 << w)
    total = power = u
    i = 1
    while power > 1 and square:
        i += 2
        power = divided(power * square, 1 << w)
        total += divided(power, i)
    return 2 * (total + power if up else total)


def _tanh(t: Fraction, p: int) -> Enclosure:
    """(1 - e) / (1 + e) with e = exp(-2 t), decreasing in e; odd."""
    if t < 0:
        lo, hi = _tanh(-t, p)
        return -hi, -lo
    if t == 0:
        return _ZERO, _ZERO
    lo, hi, w = _exp_minus(2 * t, p)
    one = 1 << w
    return Fraction(one - hi, one + hi), Fraction(one - lo, one + lo)


def _sigmoid(t: Fraction, p: int) -> Enclosure:
    """1 / (1 + e) for t >= 0, e / (1 + e) for t < 0, with e = exp(-|t|)."""
    if t == 0:
        return Fraction(1, 2), Fraction(1, 2)
    lo, hi, w = _exp_minus(abs(t), p)
    one = 1 << w
    if t < 0:
        return Fraction(lo, one + lo), Fraction(hi, one + hi)
    return Fraction(one, one + hi), Fraction(one, one + lo)


def _softplus(t: Fraction, p: int) -> Enclosure:
    """log(1 + exp(t)) = max(t, 0) + log(1 + exp(-|t|))."""
    lo, hi, w = _exp_minus(abs(t), p)
    base = max(t, _ZERO)
    low, high = _log1p(lo, w, up=False), _log1p(hi, w, up=True)
    return base + Fraction(low, 1 << w), base + Fraction(high, 1 << w)


def _elu(alpha: Fraction) -> Function:
    def enclose(t: Fraction, p: int) -> Enclosure:
        """t for t >= 0, else alpha (exp(t) - 1)."""
        if t >= 0:
            return t, t
        lo, hi, w = _exp_minus(-t, p)
        return alpha * (Fraction(lo, 1 << w) - 1), alpha * (Fraction(hi, 1 << w) - 1)

    return enclose


def _exact(phi: Callable[[Fraction], Fraction]) -> Function:
    def enclose(t: Fraction, p: int) -> Enclosure:
        del p
        value = phi(t)
        return value, value

    return enclose


def _leaky(a: Fraction) -> Function:
    return _exact(lambda t: t if t > 0 else a * t)


_PLAIN: dict[str, Function] = {
    "relu": _exact(lambda t: max(t, _ZERO)),
    "identity": _exact(lambda t: t),
    "hard_tanh": _exact(lambda t: min(max(t, -_ONE), _ONE)),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
}
_PARAMETRIC = {"leaky_relu": (_leaky, 0.01), "elu": (_elu, 1.0)}  # with their default parameters


def parse(text: str) -> tuple[str, Function]:
    """The canonical text of an activation, which the model's digest contains, and the function.

    "relu", "leaky_relu(0.1)", "elu(0.5)"; the parameter is the float64 that its text is nearest to.
    """
    match = re.fullmatch(r"([a-z_0-9-]{1,40}?)(?:\(([^()]{0,40})\))?", text.strip().lower())
    name, argument = (match[1].replace("-", "_"), match[2]) if match else ("", None)
    name = {"leakyrelu": "leaky_relu", "hardtanh": "hard_tanh"}.get(name, name)
    if name in _PLAIN and argument is None:
        return name, _PLAIN[name]
    if name in _PARAMETRIC:
        make, parameter = _PARAMETRIC[name]
        try:
            parameter = parameter if argument is None else float(argument)
        except ValueError:
            parameter = -1.0
        if 0 <= parameter <= 1:
            return f"{name}({parameter!r})", make(Fraction(parameter))
    known = ", ".join((*_PLAIN, *_PARAMETRIC))
    raise UnreadableError(f"the activation {text[:80]!r} is none that is checked here: {known}")


def is_linear(spec: str) -> bool:
    """Whether a canonical activation is piecewise linear."""
    return spec in ("relu", "identity", "hard_tanh") or spec.startswith("leaky_relu(")


def slope(spec: str) -> Fraction:
    """The slope of relu, leaky_relu(a) or identity below 0; above it is 1."""
    if spec.startswith("leaky_relu("):
        return Fraction(float(spec[len("leaky_relu(") : -1]))
    return Fraction(spec == "identity")


def at_least(phi: Function, t: Fraction, v: Fraction) -> bool:
    """Whether phi(t) >= v."""
    return _decide(phi, t, v, upper=False)


def at_most(phi: Function, t: Fraction, v: Fraction) -> bool:
    """Whether phi(t) <= v."""
    return _decide(phi, t, v, upper=True)


def _decide(phi: Function, t: Fraction, v: Fraction, upper: bool) -> bool:
    bits = FIRST_BITS
    while bits <= LAST_BITS:
        lo, hi = phi(t, bits)
        if hi <= v if upper else lo >= v:
            return True
        if lo > v if upper else hi < v:
            return False
        bits *= 2
    raise NotValidError(f"a comparison of phi(t) is undecided at {LAST_BITS} bits")
