"""The largest certified radius: certified there, and not much further out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from equicert.bounds import Interval, Lipschitz, Method
from equicert.certification import certify
from equicert.errors import InputError
from equicert.radius import certified_radii
from equicert.stored import StoredNetwork
from networks import random_network


def _problem() -> tuple[StoredNetwork, Tensor, Tensor]:
    made = random_network(np.random.default_rng(3), 8, 2, 3, 0.2)
    network = StoredNetwork.from_arrays(made.W, made.U, made.b, made.C, made.c, made.activation)
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = network.predict(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # one that cannot be certified at any radius
    return network, x, labels


@pytest.mark.parametrize("method", [Interval(), Lipschitz()], ids=lambda m: m.name)
def test_certified_at_the_radius_and_not_beyond(method: Method) -> None:
    network, x, labels = _problem()
    chunks = certified_radii(network, x, labels, method, domain=(0, 1), resolution=1e-3)
    found = [item for chunk in chunks for item in chunk]
    assert found[0].radius is None
    assert found[0].verdict.status == "misclassified"
    for row, item in enumerate(found[1:], 1):
        assert item.radius is not None
        again = certify(
            network, x[row], int(labels[row]), item.radius, domain=(0, 1), method=method
        )
        assert again[0].status == item.verdict.status == "certified"
        if item.radius < 1.0:
            beyond = certify(
                network, x[row], int(labels[row]), item.radius + 2e-3, domain=(0, 1), method=method
            )
            assert beyond[0].status == "unknown"


def test_batches_do_not_matter() -> None:
    network, x, labels = _problem()
    x, labels = x[:8], labels[:8]
    one, many = (
        [
            item.radius
            for chunk in certified_radii(network, x, labels, Interval(), batch_size=size)
            for item in chunk
        ]
        for size in (1, 30)
    )
    assert one == many


@pytest.mark.parametrize(("largest", "resolution"), [(0, 1), (1, 0), (float("nan"), 1), (-1, 1)])
def test_bad_spans_are_refused(largest: float, resolution: float) -> None:
    network, x, labels = _problem()
    with pytest.raises(InputError, match="must be positive"):
        list(
            certified_radii(network, x, labels, Interval(), largest=largest, resolution=resolution)
        )
