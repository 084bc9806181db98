"""Tightened bounds: every lemma follows from those before it, and none cuts a state off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import small_networks
from equicert.bounds import Complete, Dual, Tightening, lemmas
from networks import Network
from searches import ask, check_bounds, check_proofs, label_at, least_margins, stored


def draws() -> Iterator[Network]:
    return small_networks.varied(30, 4)


EACH = pytest.mark.parametrize("net", [*draws()], ids=str)


def case(net: Network, width: float) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int]]:
    boxes = [small_networks.box_about(net, seed, width) for seed in (1, 2)]
    return boxes, [label_at(net, (lo + hi) / 2) for lo, hi in boxes]


@EACH
@pytest.mark.parametrize("width", [0.25])
def test_bounds_and_chains_are_sound(net: Network, width: float) -> None:
    """The judge follows each chain lemma by lemma, in rational arithmetic."""
    boxes, labels = case(net, width)
    answer = Tightening().answer(stored(net), ask(net, boxes, labels))
    check_bounds(answer, [least_margins(net, e, y) for e, y in zip(boxes, labels, strict=True)])
    check_proofs(net, boxes, labels, answer)


@EACH
def test_it_is_no_worse_than_the_dual_alone(net: Network) -> None:
    boxes, labels = case(net, 0.5)
    query = ask(net, boxes, labels)
    dual, tightened = (m.answer(stored(net), query) for m in (Dual(), Tightening()))
    assert bool((tightened.margin >= dual.margin - 1e-9 * (1 + dual.margin.abs())).all())
    assert bool((tightened.holds | ~dual.holds).all())


def test_it_certifies_more_by_chains() -> None:
    """Chains with lemmas occur, and they decide what the dual alone does not."""
    chains = more = 0
    for net in draws():
        boxes = [small_networks.box_about(net, seed, 0.25) for seed in range(2)]
        labels = [label_at(net, (lo + hi) / 2) for lo, hi in boxes]
        query = ask(net, boxes, labels)
        answer = Tightening().answer(stored(net), query)
        more += int((answer.holds & ~Dual().answer(stored(net), query).holds).sum())
        for found in answer.findings or ():
            chains += found is not None and found.proof is not None and len(found.proof.chain) > 0
    assert chains > 1
    assert more > 1


@EACH
def test_it_is_deterministic(net: Network) -> None:
    query = ask(net, *case(net, 0.5))
    one, other = (Tightening(timeout=None).answer(stored(net), query) for _ in range(2))
    assert torch.equal(one.lower, other.lower)
    assert one.reasons == other.reasons


@pytest.mark.parametrize("rows", [0, 3])
def test_as_many_lemmas_are_kept_as_there_is_room_for(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is proved with fewer is true, and says why it is no more; branching goes on."""
    monkeypatch.setattr(lemmas, "_ROWS", 1)
    net, short, told = small_networks.contracting(30, 4), 0, 0
    for seed in range(2):
        boxes = [small_networks.box_about(net, seed, 0.25)]
        labels = [label_at(net, sum(boxes[0]) / 2)]
        query = ask(net, boxes, labels)
        monkeypatch.setattr(lemmas, "_BYTES", 2**28)
        free = Tightening().answer(stored(net), query)
        whole = Complete().answer(stored(net), query)
        monkeypatch.setattr(lemmas, "_BYTES", rows * 8 * net.states)
        capped = Tightening().answer(stored(net), query)
        check_bounds(capped, [least_margins(net, boxes[0], labels[0])])
        check_proofs(net, boxes, labels, capped)
        chains = [f.proof.chain for f in capped.findings or () if f is not None and f.proof]
        assert all(len(chain) <= rows for chain in chains)
        short += bool((capped.margin < free.margin).any())
        told += capped.reasons == ("memory",)
        assert torch.equal(Complete().answer(stored(net), query).holds, whole.holds)
    assert told > 0
    assert short > 0
