"""What happens when a solve misses its tolerance: never silence."""

import pickle
import warnings
from collections.abc import Callable

import pytest
import torch

from equicert.errors import NotConvergedError
from equicert.policies import (
    ConvergenceWarning,
    Policy,
    Raise,
    RowCount,
    Tally,
    WarnAndCount,
    failure,
)
from equicert.solution import Solution


def made(
    value: torch.Tensor, bound: torch.Tensor, steps: torch.Tensor, done: torch.Tensor
) -> Solution:
    """A solution with nothing left to change and no rounding."""
    return Solution(value, bound, steps, done, lambda: 0 * value, lambda: 0 * bound)


def solution(*converged: bool, steps: int = 3) -> Solution:
    done = torch.tensor(converged, dtype=torch.bool)
    radius = torch.where(done, 1e-6, 0.5) * torch.arange(1, len(done) + 1)
    counts = torch.where(done, steps, 2 * steps)
    return made(torch.zeros(len(done), 2), radius, counts, done)


GOOD, BAD = solution(True, True), solution(True, False, False)
EMPTY = solution()
POLICIES: dict[str, Callable[[], Policy]] = {
    "raise": Raise,
    "warn and count": WarnAndCount,
    "tally": lambda: Tally(Raise()),
}
EVERY = pytest.mark.parametrize("make", POLICIES.values(), ids=list(POLICIES))


@EVERY
def test_a_converged_solve_passes_in_silence(make: Callable[[], Policy]) -> None:
    policy = make()
    policy.observe("forward solve", GOOD, "")
    policy.observe("forward solve", EMPTY, "")


@EVERY
def test_a_missed_tolerance_is_never_silent(make: Callable[[], Policy]) -> None:
    with pytest.raises((NotConvergedError, ConvergenceWarning)):
        make().observe("forward solve", BAD, "raise max_steps")


@EVERY
def test_can_be_pickled(make: Callable[[], Policy]) -> None:
    policy = pickle.loads(pickle.dumps(make()))  # noqa: S301 - our own bytes
    with pytest.raises((NotConvergedError, ConvergenceWarning)):
        policy.observe("forward solve", BAD, "")


def test_the_error_says_what_failed_how_badly_and_what_to_do() -> None:
    with pytest.raises(NotConvergedError) as caught:
        Raise().observe("adjoint solve", BAD, "raise max_steps")
    text = str(caught.value)
    assert "adjoint solve" in text
    assert "2 of 3" in text
    assert "1.5" in text
    assert text.endswith("raise max_steps")
    assert "\n" not in text
    assert (caught.value.failed, caught.value.batch) == (2, 3)
    assert caught.value.radius == BAD.worst_radius == pytest.approx(1.5)
    assert str(failure("adjoint solve", BAD, "raise max_steps")) == text


def test_a_nan_radius_is_named() -> None:
    nan = torch.full((1,), torch.nan)
    lost = made(nan[None], nan, torch.tensor([1]), torch.tensor([False]))
    assert "nan" in str(failure("forward solve", lost, "look for extreme weights"))


def test_warns_once_a_kind_and_counts_every_sample() -> None:
    policy = WarnAndCount()
    with pytest.warns(ConvergenceWarning, match=r"forward solve: 2 of 3 .* raise max_steps"):
        policy.observe("forward solve", BAD, "raise max_steps")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.observe("forward solve", BAD, "raise max_steps")
        policy.observe("forward solve", GOOD, "")
    assert policy.missed == {"forward solve": 4}
    with pytest.warns(ConvergenceWarning, match="adjoint solve"):
        policy.observe("adjoint solve", solution(False), "")
    assert policy.missed == {"forward solve": 4, "adjoint solve": 1}


def test_counts_nothing_of_what_converged() -> None:
    policy = WarnAndCount()
    policy.observe("forward solve", GOOD, "")
    assert sum(policy.missed.values()) == 0
    with pytest.warns(ConvergenceWarning):  # the first miss still warns
        policy.observe("forward solve", BAD, "")


def test_counts_are_those_of_one_policy() -> None:
    one, other = WarnAndCount(), WarnAndCount()
    with pytest.warns(ConvergenceWarning):
        one.observe("forward solve", BAD, "")
    assert not other.missed


def test_tally_means_the_steps_of_each_kind() -> None:
    tally = Tally(Raise())
    assert tally.mean_steps() == {}
    tally.observe("forward solve", solution(True, True, steps=4), "")
    tally.observe("forward solve", solution(True, steps=10), "")
    tally.observe("adjoint solve", solution(True, steps=6), "")
    assert tally.mean_steps() == {"adjoint solve": 6.0, "forward solve": 7.0}
    tally.reset()
    assert tally.mean_steps() == {}
    tally.observe("forward solve", solution(True, steps=2), "")
    assert tally.mean_steps() == {"forward solve": 2.0}


def test_rows_are_counted_by_kind_and_outcomes_passed_on() -> None:
    count = RowCount(Raise())
    count.observe("forward solve", solution(True, True, steps=4), "")
    count.observe("forward solve", solution(True, steps=10), "")
    count.observe("adjoint solve", solution(True, steps=6), "")
    assert count.rows == {"forward solve": 3, "adjoint solve": 1}
    with pytest.raises(NotConvergedError):
        count.observe("adjoint solve", BAD, "")
    assert count.rows["adjoint solve"] == 1 + len(BAD.converged)  # the failed ones count as well


def test_tally_passes_every_outcome_on() -> None:
    inner = WarnAndCount()
    tally = Tally(inner)
    with pytest.warns(ConvergenceWarning, match="loosen"):
        tally.observe("forward solve", BAD, "loosen the tolerance")
    tally.observe("forward solve", GOOD, "")
    assert inner.missed == {"forward solve": 2}
    assert tally.mean_steps() == {"forward solve": (5.0 + 3.0) / 2}
    raising = Tally(Raise())
    with pytest.raises(NotConvergedError):
        raising.observe("forward solve", BAD, "")
    assert raising.mean_steps() == {"forward solve": 5.0}  # the failed solve counts as well
