"""Questions and answers: nothing holds vacuously, and what holds is decided by the forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equicert.boxes import Box
from equicert.errors import InputError
from equicert.queries import Answer, Forms, Query, StateBox, check_labels


def unit(batch: int) -> Box:
    return Box(torch.zeros(batch, 1), torch.ones(batch, 1))


def index(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def forms(rows: int = 2, outputs: int = 3, clause: Tensor | None = None) -> Forms:
    return Forms(torch.ones(rows, outputs), torch.zeros(rows), clause)


def answer(
    lower: Tensor, clause: Tensor | None, proved: Tensor | None = None, reason: str = ""
) -> Answer:
    batch, k = lower.shape
    proved = torch.ones(batch, dtype=torch.bool) if proved is None else proved
    state = StateBox(torch.zeros(batch, 1), torch.ones(batch, 1), proved, (reason,) * batch)
    query = Query(unit(batch), (forms(k, 3, clause),), torch.zeros(batch, dtype=torch.int64))
    return Answer(query, lower, state)


# Forms.


@pytest.mark.parametrize("outputs", [2, 3, 5])
def test_margins_of_a_label_are_its_lead_over_every_other(outputs: int) -> None:
    y = torch.randn(outputs)
    for label in range(outputs):
        found = Forms.margins(label, outputs)
        values = found.A @ y + found.d
        expected = [y[label] - y[j] for j in range(outputs) if j != label]
        torch.testing.assert_close(values, torch.stack(expected))
        assert found.clause is not None
        assert found.clause.tolist() == list(range(outputs - 1))


def test_coordinates_bound_each_output_from_both_sides() -> None:
    y = torch.randn(3)
    found = Forms.coordinates(3)
    assert torch.equal(found.A @ y + found.d, torch.cat([y, -y]))
    assert found.clause is None


@pytest.mark.parametrize(
    ("A", "d", "clause", "message"),
    [
        (torch.ones(3), torch.zeros(3), None, "forms need"),
        (torch.ones(2, 3), torch.zeros(3), None, "forms need"),
        (torch.ones(2, 3), torch.zeros(2, 1), None, "forms need"),
        (torch.tensor([[math.nan]]), torch.zeros(1), None, "NaN or infinite"),
        (torch.ones(1, 1), torch.tensor([math.inf]), None, "NaN or infinite"),
        (torch.ones(1, 1, dtype=torch.float32), torch.zeros(1), None, "float64"),
        (torch.ones(1, 1), torch.zeros(1, dtype=torch.float32), None, "float64"),
        (torch.ones(2, 3), torch.zeros(2), index(0, 2), "without gaps"),
        (torch.ones(2, 3), torch.zeros(2), index(1, 1), "without gaps"),
        (torch.ones(2, 3), torch.zeros(2), index(0, -1), "without gaps"),
        (torch.ones(2, 3), torch.zeros(2), index(0), "without gaps"),
        (torch.ones(0, 3), torch.zeros(0), index(), "vacuously"),
    ],
)
def test_forms_that_mean_nothing_are_refused(
    A: Tensor, d: Tensor, clause: Tensor | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Forms(A, d, clause)


# Queries.


def test_samples_with_one_label_share_their_forms() -> None:
    labels = index(2, 0, 2, 1, 0)
    query = Query.of_margins(unit(5), labels, 4)
    assert len(query.forms) == 3
    for row, label in enumerate(labels.tolist()):
        assert torch.equal(query.forms[int(query.which[row])].A, Forms.margins(label, 4).A)


@pytest.mark.parametrize("which", [index(1), index(-1), index(7), torch.tensor([0.0])])
def test_a_box_without_forms_is_refused(which: Tensor) -> None:
    """Its property would hold vacuously: a minimum over no clause."""
    with pytest.raises(InputError, match="set"):
        Query(unit(1), (forms(clause=index(0, 1)),), which)


def test_a_query_without_any_forms_is_refused() -> None:
    with pytest.raises(InputError):
        Query(unit(1), (), index(0))


def test_a_query_needs_one_set_for_each_box_and_equal_rows() -> None:
    with pytest.raises(InputError, match="one set of forms per box"):
        Query(unit(2), (forms(),), index(0))
    with pytest.raises(InputError, match="same number of rows"):
        Query(unit(2), (forms(1), forms(2)), index(0, 1))
    with pytest.raises(InputError, match="same number of rows"):
        Query(unit(2), (forms(2), forms(2, clause=index(0, 1))), index(0, 1))


def test_one_output_has_no_margins() -> None:
    with pytest.raises(InputError, match="one output"):
        Query.of_margins(unit(1), index(0), 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), "integers"),
        (torch.tensor([True, False]), "integers"),
        (index(0), "2 samples need 2 labels"),
        (index(0, 1, 2), "2 samples need 2 labels"),
        (index(0, 1)[None], "2 samples need 2 labels"),
        (torch.tensor(1), "2 samples need 2 labels"),
        (index(0, 3), r"label 3 of sample 1 is outside 0\.\.2"),
        (index(-1, 0), r"label -1 of sample 0 is outside 0\.\.2"),
    ],
)
def test_labels_that_fit_no_class_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_labels(labels, 2, 3)
    with pytest.raises(InputError, match=message):
        Query.of_margins(unit(2), labels, 3)


def test_a_label_may_be_a_number_or_a_small_integer_type() -> None:
    assert check_labels(torch.tensor(2), 1, 3).tolist() == [2]
    small = check_labels(torch.tensor([1, 0], dtype=torch.uint8), 2, 3)
    assert small.dtype == torch.int64


# Answers.


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf])),
        min_size=1,
        max_size=6,
    )
)
def test_a_property_holds_when_each_clause_has_a_positive_form(
    rows: list[tuple[int, float]],
) -> None:
    """The unsafe set is the union over clauses of "all its forms are <= 0"."""
    numbers = {old: new for new, old in enumerate(sorted({clause for clause, _ in rows}))}
    clause = index(*(numbers[clause] for clause, _ in rows))
    lower = torch.tensor([[value for _, value in rows]])
    found = answer(lower, clause)
    by_clause = [
        max(value for number, (_, value) in zip(clause.tolist(), rows, strict=True) if number == c)
        for c in range(len(numbers))
    ]
    assert found.margin.tolist() == [min(by_clause)]
    assert found.holds.tolist() == [all(best > 0 for best in by_clause)]


def test_each_sample_is_decided_by_its_own_forms() -> None:
    """The same bounds, once as two clauses, once as two forms of one."""
    sets = forms(clause=index(0, 1)), forms(clause=index(0, 0))
    query = Query(unit(4), sets, index(1, 0, 0, 1))
    lower = torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [-2.0, -1.0]])
    state = StateBox(
        torch.zeros(4, 1), torch.ones(4, 1), torch.ones(4, dtype=torch.bool), ("",) * 4
    )
    found = Answer(query, lower, state)
    assert found.margin.tolist() == [1.0, -1.0, 1.0, -1.0]
    assert found.holds.tolist() == [True, False, True, False]
    assert found.reasons == ("", "margin", "", "margin")


def test_a_tie_does_not_hold() -> None:
    found = answer(torch.tensor([[0.0], [5e-324], [-0.0]]), index(0))
    assert found.holds.tolist() == [False, True, False]


def test_nothing_holds_over_an_unproved_state_box() -> None:
    proved = torch.tensor([True, False])
    found = answer(torch.ones(2, 1), index(0), proved, "unconverged")
    assert found.holds.tolist() == [True, False]
    assert found.reasons == ("", "unconverged")


def test_nan_does_not_hold() -> None:
    found = answer(torch.tensor([[math.nan, 1.0], [1.0, math.nan]]), index(0, 1))
    assert found.holds.tolist() == [False, False]
    found = answer(torch.tensor([[math.nan, 1.0]]), index(0, 0))
    assert found.holds.tolist() == [False]


def test_bounds_alone_decide_nothing() -> None:
    found = answer(torch.ones(1, 2), None)
    with pytest.raises(InputError, match="no clauses to decide"):
        _ = found.margin
    with pytest.raises(InputError, match="no clauses to decide"):
        _ = found.holds
