"""Combinations of half-spaces: valid whatever they are, good where outputs are convex."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equicert.conjunctions import with_combinations
from equicert.properties import HalfSpace

numbers = st.fractions(-4, 4, max_denominator=9)
half_spaces = st.builds(
    lambda a, b, d: HalfSpace(tuple((j, v) for j, v in enumerate((a, b)) if v), d),
    numbers,
    numbers,
    numbers,
)
outputs = hnp.arrays(np.float64, (7, 2), elements=st.floats(-4, 4))


@given(st.lists(half_spaces, min_size=1, max_size=4), outputs, st.tuples(numbers, numbers))
def test_a_combination_is_not_positive_in_the_conjunction(
    clause: list[HalfSpace], y: np.ndarray, point: tuple[Fraction, Fraction]
) -> None:
    [found] = with_combinations([tuple(clause)], y)
    assert found[: len(clause)] == tuple(clause)
    assert len(clause) > 1 or found == tuple(clause)
    least = [h.greatest(point, point) for h in found]
    assert max(least[: len(clause)]) > 0 or max(least) <= 0


@given(outputs, numbers, st.integers(2, 6))
def test_samples_beside_a_wedge_are_separated_from_it(
    y: np.ndarray, slope: Fraction, steep: int
) -> None:
    """Of `y_0 <= s y_1`, `steep y_0 >= -s y_1` neither excludes points far out on the left."""
    wedge = (
        HalfSpace(((0, Fraction(-1)), (1, slope)), Fraction(0)),
        HalfSpace(((0, Fraction(-steep)), (1, -slope)), Fraction(0)),
    )
    left = y - [20, 0]
    [found] = with_combinations([wedge], left)
    assert max(float(h.floats(left).min()) for h in found) > 0
    assert len(found) >= 3


def test_a_combination_is_found_where_the_sum_does_not_serve() -> None:
    """`f_1 = y - 1`, `f_2 = -y + 4 c`, `f_3 = -c` on c = 1/2: only f_1 + f_2 is positive."""
    clause = (
        HalfSpace(((0, Fraction(1)),), Fraction(-1)),
        HalfSpace(((0, Fraction(-1)),), Fraction(2)),
        HalfSpace((), Fraction(-5)),
    )
    y = np.linspace(-3, 3, 9)[:, None]
    [found] = with_combinations([clause], y)
    values = [float(h.floats(y).min()) for h in found]
    assert max(values[:4]) < 0 < values[4]


def test_no_outputs_that_are_finite_leave_the_sum() -> None:
    clause = (HalfSpace(((0, Fraction(1)),), Fraction(0)),) * 2
    [found] = with_combinations([clause], np.full((3, 1), np.nan))
    assert found == (*clause, HalfSpace(((0, Fraction(2)),), Fraction(0)))
