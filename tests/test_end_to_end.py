"""A network trained here, certified, and attacked where its certificates are thinnest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from equicert.attacks import PGD
from equicert.bounds import Interval, Lipschitz
from equicert.certification import Verdict, certify
from equicert.data import DataSet, load_data
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import Trainer

EPS = 0.05


@cache
def _digits() -> tuple[DataSet, StoredNetwork]:
    data = load_data("digits")
    config = TrainConfig(
        hidden=30, epochs=12, eps=EPS, learning_rate=5e-3, threads=1, evaluate_samples=0
    )
    return data, Trainer(data, config).run().network


def _certify(data: DataSet, network: StoredNetwork, eps: float, limit: int) -> list[Verdict]:
    x, y = torch.from_numpy(data.x_test[:limit]), torch.from_numpy(data.y_test[:limit])
    return certify(network, x, y, eps, domain=data.domain)


def _attack_thinnest(data: DataSet, network: StoredNetwork, eps: float, limit: int) -> None:
    verdicts = _certify(data, network, eps, limit)
    held = [i for i, verdict in enumerate(verdicts) if verdict.status == "certified"]
    held.sort(key=lambda i: verdicts[i].margin)
    thinnest = held[:200]
    assert len(thinnest) == 200
    x, y = torch.from_numpy(data.x_test[thinnest]), torch.from_numpy(data.y_test[thinnest])
    result = PGD(steps=20, restarts=10).run(network, x, y, eps, data.domain)
    assert set(result.status) == {"unbroken"}
    # The attack's margins are those of points of the box: never below the proved ones.
    proved = torch.tensor([verdicts[i].margin for i in thinnest])
    assert bool((result.margin >= proved - 1e-9).all())


def test_training_gives_a_network_worth_certifying() -> None:
    verdicts = _certify(*_digits(), EPS, 360)
    assert np.mean([v.predicted == v.label for v in verdicts]) > 0.9
    assert np.mean([v.status == "certified" for v in verdicts]) > 0.6


def test_pgd_breaks_none_of_the_200_smallest_certified_margins() -> None:
    _attack_thinnest(*_digits(), EPS, 360)


def test_attacks_do_break_what_is_not_certified() -> None:
    data, network = _digits()
    verdicts = _certify(data, network, 4 * EPS, 360)
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    result = PGD(steps=10).run(network, x, y, 4 * EPS, data.domain)
    assert result.status.count("broken") > 30
    for verdict, status in zip(verdicts, result.status, strict=True):
        assert (verdict.status, status) != ("certified", "broken")


def test_interval_certifies_what_lipschitz_does() -> None:
    data, network = _digits()
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    for eps in (0.0, 0.002, 0.01):
        by = [
            certify(network, x, y, eps, domain=data.domain, method=method)
            for method in (Interval(), Lipschitz())
        ]
        for interval, lipschitz in zip(*by, strict=True):
            assert interval.margin >= lipschitz.margin - 1e-5


@pytest.mark.long
def test_mnist_trains_certifies_and_withstands(mnist_dir: Path) -> None:
    data = load_data("mnist", mnist_dir.parent)
    config = TrainConfig(epochs=6, learning_rate=2e-3, threads=1, evaluate_samples=0)
    network = Trainer(data, config).run().network
    verdicts = _certify(data, network, 0.1, 10_000)
    assert np.mean([v.predicted == v.label for v in verdicts]) > 0.85
    assert np.mean([v.status == "certified" for v in verdicts]) > 0.6
    _attack_thinnest(data, network, 0.1, 10_000)
