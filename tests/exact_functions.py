"""Rational enclosures, with proved remainders, of exp and of the activations built on it.

Every function takes an exact Fraction t and returns Fractions (lo, hi) with lo <= f(t) <= hi and
hi - lo <= max(2^-80 |f(t)|, 2^-5900). Standard library only. Intermediate results are rounded
outwards to PRECISION significant bits: the numbers stay short, the enclosure an enclosure.
"""

from __future__ import annotations

from fractions import Fraction

from exact import Enclosure, evaluate

PRECISION = 192
# exp(-LARGEST) < 2^-5900, far below the smallest float64. Beyond it the lower end is 0.
LARGEST = 1 << 12


def _floor(x: Fraction) -> Fraction:
    """The largest multiple of a power of two, PRECISION bits long, that is <= x."""
    if x == 0:
        return x
    shift = PRECISION - (abs(x.numerator).bit_length() - x.denominator.bit_length())
    if shift >= 0:
        return Fraction((x.numerator << shift) // x.denominator, 1 << shift)
    return Fraction(x.numerator // (x.denominator << -shift) << -shift)


def _outward(lo: Fraction, hi: Fraction) -> Enclosure:
    return _floor(lo), -_floor(-hi)


def _expm1_series(s: Fraction) -> Enclosure:
    """exp(s) - 1 for 0 <= s <= 1/2: a term is at most s/2 times the one before it, so what
    follows a partial sum is between 0 and its last term."""
    total = term = s
    k = 1
    while term > total / (1 << PRECISION):
        k += 1
        term = -_floor(-term * s / k)  # rounded up: only ever used as an upper bound below
        total += term
    # k terms, each rounded up by at most 2^-(PRECISION - 1) of itself, plus the remainder
    slack = total * k / (1 << (PRECISION - 2)) + term
    return total - slack if total else Fraction(0), total + slack


def exp(t: Fraction) -> Enclosure:
    """exp(t) = (exp(t / 2^k))^(2^k)."""
    if t < 0:
        if t < -LARGEST:
            return Fraction(0), exp(Fraction(-LARGEST))[1]
        lo, hi = exp(-t)
        return _outward(1 / hi, 1 / lo)
    if t > LARGEST:
        raise OverflowError(f"exp({float(t):g}) is too long to write down")
    halvings = max(0, (t.numerator // t.denominator).bit_length() + 1)
    small, large = _outward(t / (1 << halvings), t / (1 << halvings))
    lo, hi = 1 + _expm1_series(small)[0], 1 + _expm1_series(large)[1]
    for _ in range(halvings):
        lo, hi = _outward(lo * lo, hi * hi)
    return lo, hi


def expm1(t: Fraction) -> Enclosure:
    if abs(t) > Fraction(1, 2):
        lo, hi = exp(t)
        return lo - 1, hi - 1
    if t < 0:  # exp(-s) - 1 = -e / (1 + e) with e = exp(s) - 1, increasing in e
        lo, hi = expm1(-t)
        return _outward(-hi / (1 + hi), -lo / (1 + lo))
    small, large = _outward(t, t)
    return _outward(_expm1_series(small)[0], _expm1_series(large)[1])


def _log1p_series(e: Fraction, upper: bool) -> Fraction:
    """A bound on log(1 + e) = 2 artanh(u), u = e / (2 + e) <= 1/3 for 0 <= e <= 1.

    The series sum u^(2k+1) / (2k+1) has positive terms, each at most u^2 <= 1/9 of the one before:
    what follows a partial sum is below an eighth of its last term.
    """
    u = e / (2 + e)
    u = -_floor(-u) if upper else _floor(u)
    square = -_floor(-u * u) if upper else _floor(u * u)
    total = power = u
    k = 0
    while power > total / (1 << PRECISION):
        k += 1
        power = -_floor(-power * square) if upper else _floor(power * square)
        total += power / (2 * k + 1)
    return 2 * (total + power / 8 if upper else total)


def log1p(e: Fraction) -> Enclosure:
    """log(1 + e) for 0 <= e <= 1."""
    return _outward(_log1p_series(e, upper=False), _log1p_series(e, upper=True))


def tanh(t: Fraction) -> Enclosure:
    """-m / (2 + m), m = exp(-2t) - 1 in (-1, 0], decreasing in m; odd."""
    if t < 0:
        lo, hi = tanh(-t)
        return -hi, -lo
    lo, hi = expm1(-2 * t)
    return _outward(-hi / (2 + hi), -lo / (2 + lo))


def sigmoid(t: Fraction) -> Enclosure:
    lo, hi = exp(-abs(t))
    if t < 0:
        return _outward(lo / (1 + lo), hi / (1 + hi))
    return _outward(1 / (1 + hi), 1 / (1 + lo))


def softplus(t: Fraction) -> Enclosure:
    """log(1 + exp(t)) = max(t, 0) + log1p(exp(-|t|))."""
    lo, hi = exp(-abs(t))
    shift = max(t, Fraction(0))
    return shift + log1p(lo)[0], shift + log1p(hi)[1]


def elu(t: Fraction, alpha: Fraction) -> Enclosure:
    if t >= 0:
        return t, t
    lo, hi = expm1(t)
    return alpha * lo, alpha * hi


def activation(spec: str, t: Fraction) -> Enclosure:
    """Any activation by its canonical string, "tanh", "elu(0.5)", "leaky_relu(0.01)", ..."""
    name, _, argument = spec.rstrip(")").partition("(")
    if name == "elu":
        return elu(t, Fraction(float(argument or 1.0)))
    smooth = {"tanh": tanh, "sigmoid": sigmoid, "softplus": softplus}
    if name in smooth:
        return smooth[name](t)
    value = evaluate(spec, t)
    return value, value
