"""The checker against ten thousand falsified certificates, each decided independently.

`truth` decides in plain fractions, written as naively as the claim reads. Certificates are tight:
most inequalities hold with equality, or fail when moved by one unit in the last place.
"""

from __future__ import annotations

import math
import random
import re
import sys
from collections import Counter
from copy import deepcopy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from equicert.checker import NotValidError, UnreadableError, check_folder
from exact import Matrix, Vector, contracts, to_fractions
from exact_functions import activation as enclose
from networks import CONTRACTING
from proofs import Folder, Proof, prove

EACH = {  # mutations a case, 10 000 in all: fewer where the truth takes enclosures of phi;
    # a quarter of them by default, from the same stream
    "relu": 1900,
    "identity, endpoints": 1900,
    "leaky": 1900,
    "eta by a hair": 1900,
    "skewed eta": 900,
    "tanh": 500,
    "softplus": 300,
    "elu": 700,
}
Ranges = list[tuple[Fraction, Fraction]]
SPECIAL = (0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e308, -1e308, 2.0**-1022, math.inf, math.nan)


def truth(folder: Folder) -> bool | None:
    """Whether all that a folder claims holds; None where the enclosures of phi cannot tell."""
    values = [*folder.arrays.values(), folder.eta, folder.inputs]
    values += [part for p in folder.proofs for part in (p.lo, p.hi, p.margins, *(p.ends or ()))]
    rows = [p.row for p in folder.proofs]
    if not all(np.isfinite(value).all() for value in values) or sorted(set(rows)) != rows:
        return False
    W, eta = to_fractions(folder.arrays["W"]), to_fractions(folder.eta)
    if not (_ordered(folder.domain) and contracts(W, eta)):
        return False
    told = [_holds(folder, p) for p in folder.proofs]
    return False if False in told else None if None in told else True


def _holds(folder: Folder, p: Proof) -> bool | None:
    W, U, b, C, c = (to_fractions(value) for value in folder.arrays.values())
    box = _box(folder, p)
    if box is None or not 0 <= p.label < len(c) or p.kind != 1:
        return False
    Z = list(zip(to_fractions(p.lo), to_fractions(p.hi), strict=True))
    if any(lo > hi for lo, hi in Z) or not _margins_hold(C, c, p, Z):
        return False
    return _inward(folder.activation, W, U, b, Z, box)


def _ordered(domain: tuple[list[float], list[float]] | None) -> bool:
    return domain is None or not any(math.isnan(v) for end in domain for v in end)


def _box(folder: Folder, p: Proof) -> Ranges | None:
    if not 0 <= p.row < len(folder.inputs):
        return None
    x = to_fractions(folder.inputs[p.row])
    if p.ends is not None:
        box = list(zip(*map(to_fractions, p.ends), strict=True))
        return box if all(a <= v <= b for v, (a, b) in zip(x, box, strict=True)) else None
    if not (math.isfinite(p.eps) and p.eps >= 0):
        return None
    eps, box = Fraction(p.eps), []
    for j, v in enumerate(x):
        a, b = v - eps, v + eps
        if folder.domain is not None:
            low, high = (end[j % len(end)] for end in folder.domain)
            if not low <= float(v) <= high:
                return None
            a = a if low == -math.inf else max(a, Fraction(low))
            b = b if high == math.inf else min(b, Fraction(high))
        box.append((a, b))
    return box


def _least(row: Vector, box: Ranges) -> Fraction:
    return sum((min(w * lo, w * hi) for w, (lo, hi) in zip(row, box, strict=True)), Fraction(0))


def _inward(spec: str, W: Matrix, U: Matrix, b: Vector, Z: Ranges, box: Ranges) -> bool | None:
    sure: bool | None = True
    for i, (lo, hi) in enumerate(Z):
        off = [Fraction(0) if i == j else w for j, w in enumerate(W[i])]
        low = b[i] + _least(off, Z) + _least(U[i], box)
        high = b[i] - _least([-w for w in off], Z) - _least([-u for u in U[i]], box)
        least, most = enclose(spec, W[i][i] * lo + low)
        if most < lo:
            return False
        sure = sure if least >= lo else None
        least, most = enclose(spec, W[i][i] * hi + high)
        if least > hi:
            return False
        sure = sure if most <= hi else None
    return sure


def _margins_hold(C: Matrix, c: Vector, p: Proof, Z: Ranges) -> bool:
    others = [j for j in range(len(c)) if j != p.label]
    for j, claimed in zip(others, p.margins.tolist(), strict=True):
        row = [a - b for a, b in zip(C[p.label], C[j], strict=True)]
        if not 0 < Fraction(claimed) <= _least(row, Z) + c[p.label] - c[j]:
            return False
    return True


# Tight certificates.


def dyadic(spec: str, hair: float = 0.0, ends: bool = False) -> Folder:
    """Every inequality of Z and every margin an equality, eta within a few units of failing.

    The input map is chosen for the widths of Z, b for its middle; all numbers are short dyadics.
    """
    W = np.array([[0.0, 1.0 - hair], [-0.25, 0.0]] if hair else [[0.5, -0.25], [0.125, -1.0]])
    slope = 0.5 if spec == "leaky_relu(0.5)" else 1.0
    width, middle = np.array([0.5, 0.25]), np.array([0.5, 0.625])
    middle = -middle if slope != 1 else middle
    x, eps = np.array([[0.25, -0.5]]), 0.125
    need = width / slope - np.diag(W) * width - np.abs(W - np.diag(np.diag(W))) @ width
    U = np.diag(need / (2 * eps))
    b = middle / slope - W @ middle - U @ x[0]
    lo, hi = middle - width / 2, middle + width / 2
    C, c = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0]]), np.array([8.0, -0.25, 0.5])
    Z = list(zip(to_fractions(lo), to_fractions(hi), strict=True))
    rows = to_fractions(C[0] - C[1:])
    margins = [float(_least(row, Z)) for row in rows] + c[0] - c[1:]
    # (1 - h)(1 + h) < 1, and the float after 1 + h is too much
    eta = np.array([1.0, 1.0 + hair]) if hair else np.array([1.0, 0.5])
    box = (x[0] - eps, x[0] + eps) if ends else None
    proof = Proof(0, 0, lo, hi, margins, eps, box)
    arrays = {"W": W, "U": U, "b": b, "C": C, "c": c}
    return Folder(arrays, spec, eta, x, [proof])


def tightened(name: str, x: list[float], eps: float, domain: tuple[float, float]) -> Folder:
    """What the prover proves of an awkward network, every end and margin pushed until it binds."""
    folder, holds = prove(CONTRACTING[name], [x, x], None, eps, domain)
    assert all(holds)
    folder = deepcopy(folder)
    for proof in folder.proofs:
        for values, up in ((proof.lo, True), (proof.hi, False), (proof.margins, True)):
            for i in range(len(values)):
                _push(folder, values, i, 1.0 if up else -1.0)
    return folder


def _push(folder: Folder, values: np.ndarray, i: int, sign: float) -> None:
    """Move one entry as far as the claim holds, by bisection of the step."""
    step = abs(values[i]) + 2.0**-60
    while step > math.ulp(values[i]) / 4:
        before = values[i]
        values[i] = before + sign * step
        if truth(folder) is not True:
            values[i] = before
        step /= 2


CASES = {
    "relu": lambda: dyadic("relu"),
    "identity, endpoints": lambda: dyadic("identity", ends=True),
    "leaky": lambda: dyadic("leaky_relu(0.5)"),
    "eta by a hair": lambda: dyadic("relu", hair=2.0**-46),
    "skewed eta": lambda: tightened("skewed eta", [0.5], 0.125, (0.0, 1.0)),
    "tanh": lambda: tightened("tanh, steep diagonal", [0.3], 0.01, (0.0, 1.0)),
    "softplus": lambda: tightened("softplus", [0.1], 0.01, (0.0, math.inf)),
    "elu": lambda: tightened("elu", [0.9], 0.05, (0.0, 0.92)),
}


def mutate(folder: Folder, rng: random.Random) -> tuple[Folder, str, bool]:
    """A changed copy, what was changed, and whether nothing can make it valid."""
    f = deepcopy(folder)
    if rng.random() < 0.96:
        return f, rng.choices([_a_number, _a_choice], [0.88, 0.12])[0](f, rng), False
    claim = f.claim()
    key = rng.choice([key for key in claim if key != "domain"])
    values = [None, 0, -1, 1.5, "x", [], {}, True, 10**40]
    f.header[key] = rng.choice([v for v in values if v is not claim[key]])
    return f, f"header's {key}", True


def _a_number(f: Folder, rng: random.Random) -> str:
    proof = rng.choice(f.proofs)
    fields = {**f.arrays, "eta": f.eta, "x": f.inputs, "lo": proof.lo, "hi": proof.hi}
    fields["margins"] = proof.margins
    if proof.ends is not None:
        fields |= {"box lo": proof.ends[0], "box hi": proof.ends[1]}
    else:
        fields["eps"] = fields["x"]
    if f.domain is not None:
        fields["domain"] = fields["x"]
    what = rng.choice(list(fields))
    if what == "eps":
        proof.eps = _changed(proof.eps, rng)
    elif what == "domain" and f.domain is not None:
        end = f.domain[rng.randrange(2)]
        end[0] = _changed(end[0], rng)
    else:
        flat = fields[what].reshape(-1)
        i = rng.randrange(len(flat))
        flat[i] = _changed(float(flat[i]), rng)
    return what


def _a_choice(f: Folder, rng: random.Random) -> str:
    proof = rng.choice(f.proofs)
    what = rng.choice(["label", "ends of Z", "order of eta", "row", "kind"])
    if what == "label":
        proof.label = rng.choice([0, 1, 2, 3, 1 << 31])
    elif what == "ends of Z":
        proof.lo, proof.hi = rng.choice([(proof.hi, proof.lo), (proof.lo, proof.lo)])
    elif what == "order of eta":
        f.eta = np.flip(np.asarray(f.eta)).copy()
    elif what == "row":
        proof.row = rng.choice([0, 1, 1 << 20])
    else:
        proof.kind = rng.choice([0, 2])
    return what


def _changed(value: float, rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.6:
        return float(np.nextafter(value, rng.choice([-math.inf, math.inf])))
    if kind < 0.75:
        return value * rng.choice([-1.0, 0.5, 2.0, 1 + 2.0**-40, 1 - 2.0**-40])
    return rng.choice(SPECIAL) if kind < 0.9 else value + rng.uniform(-1, 1)


_CHECKS = {"eta": "eta: ", "box": "input |eps is ", "states": "neuron ", "margin": "margin "}


def outcome(folder: Folder, root: Path) -> str:
    """What the checker says: "valid", the check that fails, or that nothing can be read."""
    try:
        check_folder(*folder.write(root))
    except UnreadableError:
        return "unreadable"
    except NotValidError as error:
        text = str(error)
        return next((k for k, v in _CHECKS.items() if re.search(v, text)), "other")
    return "valid"


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CASES)
def test_no_false_certificate_is_valid_and_no_true_one_is_refused(
    name: str, share: int, tmp_path: Path
) -> None:
    folder = CASES[name]()
    assert truth(folder) is True
    assert check_folder(*folder.write(tmp_path)).certificates == len(folder.proofs)
    rng = random.Random(name)
    found, fields, accepted = Counter[str](), Counter[str](), Counter[str]()
    times = EACH[name] // share
    for _ in range(times):
        changed, what, hopeless = mutate(folder, rng)
        expected = False if hopeless else truth(changed)
        verdict = outcome(changed, tmp_path)
        assert expected is not None, what
        assert (verdict == "valid") == expected, (what, verdict)
        found[verdict] += 1
        fields[what] += 1
        accepted[what] += verdict == "valid"
    reached = times - found["unreadable"] - found["other"]
    sys.stdout.write(f"\n{name}: {dict(found)}, {reached} of {times} reached the arithmetic\n")
    sys.stdout.write(f"changed: {dict(fields)}\nof them still true: {dict(+accepted)}\n")
    assert reached >= 0.3 * times
    assert found["valid"] > 0.03 * times
    assert {"eta", "states", "margin"} <= set(found)
