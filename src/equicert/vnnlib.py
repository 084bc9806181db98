"""VNN-LIB 1.0 files: boxes of inputs and disjunctions of linear constraints on outputs.

Read are `(declare-const X_i Real)`, `(declare-const Y_j Real)` and `(assert formula)`: a formula is
`and`, `or`, or a comparison by `<=` or `>=` of two terms; a term is made of decimals, variables,
`+`, `-` and `*` by a constant. A comparison bounds one input, or is linear in the outputs. A box
may stand within an `or`; each alternative then is a case of its own. Everything else is refused by
name: what is not understood must not become a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from equicert.compressed import read_file
from equicert.errors import InputError
from equicert.properties import Case, Clause, HalfSpace, Property
from equicert.s_expressions import Term, read_terms, shorten, show

_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_VARIABLE: Final = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
_LONGEST = 2000  # characters of a decimal
_LARGEST_EXPONENT = 400  # beyond it no float64 is left, and 10^e would fill memory
_MOST = 2**22  # comparisons, or ends of boxes, after multiplying out


class _Bound(NamedTuple):
    """`X_i <= value`, or `X_i >= value`."""

    entry: int
    upper: bool
    value: Fraction


_Conjunction = tuple[_Bound | HalfSpace, ...]
_Variable = tuple[str, int]


def load_property(path: str | Path) -> Property:
    """The property of a .vnnlib file, or of a .vnnlib.gz.

    Raises:
        InputError: the file cannot be read or is not understood; the message has its name.
    """
    path = Path(path)
    try:
        return parse_property(read_file(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error.reason} at byte {error.start}") from error
    except InputError as error:
        text = str(error)
        raise InputError(text if str(path) in text else f"{path}: {text}") from error


def parse_property(text: str) -> Property:
    """The property that a text in VNN-LIB 1.0 states, every decimal taken as the exact rational.

    Example:
        >>> parse_property('''(declare-const X_0 Real) (declare-const Y_0 Real)
        ...     (assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= Y_0 0.1))''')

    Raises:
        InputError: something else than the module says; an input without both bounds or with its
            lower bound above its upper one; no constraint on an output.
    """
    reader = _Reader()
    for command in read_terms(text):
        reader.take(command)
    return reader.property()


@dataclass
class _Reader:
    """What has been declared and asserted so far.

    Attributes:
        declared: the number of inputs and of outputs.
        certain: comparisons that hold in every alternative.
        choices: assertions with several alternatives.
    """

    declared: dict[str, set[int]] = field(default_factory=lambda: {"X": set(), "Y": set()})
    certain: list[_Bound | HalfSpace] = field(default_factory=list)
    choices: list[list[_Conjunction]] = field(default_factory=list)

    def take(self, command: Term) -> None:
        match command:
            case ["declare-const", str() as name, "Real"]:
                self._declare(name)
            case ["assert", formula]:
                alternatives = self._formula(formula)
                if len(alternatives) == 1:
                    self.certain.extend(alternatives[0])
                else:
                    self.choices.append(alternatives)
            case _:
                raise InputError(
                    f"{show(command)} is not read; commands are (declare-const X_0 Real) and"
                    " (assert ...)"
                )

    def property(self) -> Property:
        """The cases: one for each box that the alternatives leave."""
        inputs, outputs = (self._count(letter) for letter in "XY")
        groups: dict[_Conjunction, list[Clause]] = {}
        always = tuple(atom for atom in self.certain if isinstance(atom, HalfSpace))
        for conjunction in _both([*self.choices, [always]]):
            bounds = tuple(atom for atom in conjunction if isinstance(atom, _Bound))
            clause = tuple(atom for atom in conjunction if isinstance(atom, HalfSpace))
            if not clause:
                raise InputError(
                    "an alternative of the property has no constraint on the outputs: every input"
                    " would be a counterexample; state one with (assert (<= ... Y_0 ...))"
                )
            groups.setdefault(bounds, []).append(clause)
        _limit(len(groups) * inputs, "ends of boxes")
        shared = _Ends([None] * inputs, [None] * inputs)
        shared.tighten(atom for atom in self.certain if isinstance(atom, _Bound))
        cases = (shared.case(bounds, clauses) for bounds, clauses in groups.items())
        return Property(inputs, outputs, tuple(cases))

    def _declare(self, name: str) -> None:
        kind, index = _variable(name)
        if index in self.declared[kind]:
            raise InputError(f"{name} is declared twice")
        self.declared[kind].add(index)

    def _count(self, letter: str) -> int:
        count = len(self.declared[letter])
        if not count:
            raise InputError(f"no variable {letter}_0 is declared: it is no VNN-LIB property")
        missing = next((i for i in range(count) if i not in self.declared[letter]), None)
        if missing is not None:
            raise InputError(f"{letter}_{missing} is not declared, but one of a higher number is")
        return count

    def _formula(self, term: Term) -> list[_Conjunction]:
        """Its alternatives: the disjunctive normal form."""
        match term:
            case ["and", _, *_]:
                return _both([self._formula(part) for part in term[1:]])
            case ["or", _, *_]:
                parts = list(chain.from_iterable(self._formula(part) for part in term[1:]))
                _limit(sum(map(len, parts)), "comparisons")
                return parts
            case ["<=", a, b]:
                return [(self._comparison(a, b, term),)]
            case [">=", a, b]:
                return [(self._comparison(b, a, term),)]
            case ["<" | ">", *_]:
                raise InputError(
                    f"{show(term)} is a strict inequality; only <= and >= are read, whose"
                    " boundary belongs to the unsafe set"
                )
        raise InputError(
            f"{show(term)} is no formula that is read; these are (and ...), (or ...), (<= a b) and"
            " (>= a b)"
        )

    def _comparison(self, a: Term, b: Term, whole: Term) -> _Bound | HalfSpace:
        """`a - b <= 0`, as a bound on one input or a half-space of the outputs."""
        sums = self._linear(a)
        for variable, value in self._linear(b).items():
            sums[variable] = sums.get(variable, Fraction(0)) - value
        d = sums.pop(_ONE, Fraction(0))
        kinds = {kind for kind, _ in sums}
        if kinds == {"Y"}:
            return HalfSpace(tuple((j, c) for (_, j), c in sorted(sums.items()) if c), d)
        if kinds == {"X", "Y"}:
            raise InputError(f"{show(whole)} mixes inputs and outputs, which is not read")
        if len(sums) != 1 or not all(sums.values()):
            raise InputError(
                f"{show(whole)} is no bound on one input; boxes of inputs are read only"
            )
        ((_, index), slope), *_ = sums.items()
        return _Bound(index, slope > 0, -d / slope)

    def _linear(self, term: Term) -> dict[_Variable, Fraction]:
        """Coefficients by variable; the constant is that of `_ONE`, if there is one."""
        match term:
            case str():
                return self._leaf(term)
            case ["+", first, *rest]:
                return self._sum([first, *rest], 1)
            case ["-", alone]:
                return _times(self._linear(alone), Fraction(-1))
            case ["-", first, *rest] if rest:
                return self._sum([first, *rest], -1)
            case ["*", first, *rest]:
                return self._product([first, *rest], term)
        raise InputError(
            f"{show(term)} is no linear term; these are decimals, variables, (+ ...), (- ...) and"
            " (* constant ...)"
        )

    def _leaf(self, word: str) -> dict[_Variable, Fraction]:
        if _DECIMAL.fullmatch(word):
            return {_ONE: _decimal(word)}
        kind, index = _variable(word)
        if index not in self.declared[kind]:
            raise InputError(f"{word} is used, but not declared before")
        return {(kind, index): Fraction(1)}

    def _sum(self, parts: list[Term], sign: int) -> dict[_Variable, Fraction]:
        """The first one plus `sign` times each of the others."""
        sums = self._linear(parts[0])
        for part in parts[1:]:
            for variable, value in self._linear(part).items():
                sums[variable] = sums.get(variable, Fraction(0)) + sign * value
        return sums

    def _product(self, parts: list[Term], whole: Term) -> dict[_Variable, Fraction]:
        product = self._linear(parts[0])
        for part in parts[1:]:
            factor = self._linear(part)
            if product.keys() - {_ONE}:
                product, factor = factor, product
            if product.keys() - {_ONE}:
                raise InputError(f"{show(whole)} is not linear: it multiplies two variables")
            product = _times(factor, product[_ONE])
        return product


_ONE: Final = ("", 0)


@dataclass
class _Ends:
    """Bounds on the inputs as far as they are known."""

    lo: list[Fraction | None]
    hi: list[Fraction | None]

    def tighten(self, bounds: Iterator[_Bound] | tuple[_Bound, ...]) -> None:
        for entry, upper, value in bounds:
            ends = self.hi if upper else self.lo
            known = ends[entry]
            if known is None or (value < known if upper else value > known):
                ends[entry] = value

    def case(self, bounds: _Conjunction, clauses: list[Clause]) -> Case:
        """The case of further bounds, every input bounded from both sides."""
        own = _Ends(self.lo.copy(), self.hi.copy())
        own.tighten(tuple(bound for bound in bounds if isinstance(bound, _Bound)))
        lo, hi = own._complete(own.lo, "lower"), own._complete(own.hi, "upper")
        for index, (low, high) in enumerate(zip(lo, hi, strict=True)):
            if low > high:
                raise InputError(
                    f"X_{index} has the lower bound {_about(low)} above its upper bound"
                    f" {_about(high)}: the box is empty, and everything would hold on it"
                )
        return Case(lo, hi, tuple(clauses))

    @staticmethod
    def _complete(ends: list[Fraction | None], side: str) -> tuple[Fraction, ...]:
        known = tuple(end for end in ends if end is not None)
        if len(known) < len(ends):
            raise InputError(f"X_{ends.index(None)} has no {side} bound; give each input both")
        return known


def _both(parts: list[list[_Conjunction]]) -> list[_Conjunction]:
    """The alternatives of "one alternative of each part": every combination, within limits."""
    made: list[_Conjunction] = [tuple(chain.from_iterable(p[0] for p in parts if len(p) == 1))]
    for part in parts:
        if len(part) > 1:
            atoms = len(part) * sum(map(len, made)) + len(made) * sum(map(len, part))
            _limit(max(atoms, len(made) * len(part)), "comparisons")
            made = [before + own for before in made for own in part]
    return made


def _limit(count: int, what: str) -> None:
    if count > _MOST:
        raise InputError(
            f"the property has more than {_MOST} {what} when its alternatives are multiplied out;"
            " split it into several files"
        )


def _times(sums: dict[_Variable, Fraction], factor: Fraction) -> dict[_Variable, Fraction]:
    return {variable: value * factor for variable, value in sums.items()}


def _variable(word: str) -> _Variable:
    match = _VARIABLE.fullmatch(word)
    if match is None:
        raise InputError(f"'{shorten(word)}' is neither a decimal nor a variable X_i or Y_j")
    return match[1], int(match[2])


def _decimal(word: str) -> Fraction:
    exponents = re.split("[eE]", word)[1:]
    if len(word) > _LONGEST or any(abs(int(e)) > _LARGEST_EXPONENT for e in exponents):
        raise InputError(f"'{shorten(word)}' is too long a number, or beyond float64")
    return Fraction(word)


def _about(value: Fraction) -> str:
    """The value to 17 digits, however large."""
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.17g}"
