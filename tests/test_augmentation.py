"""Moved images: every result is one of the moves, each is drawn, and nothing else changes."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from equicert.augmentation import shifted
from equicert.data import DataSet
from equicert.errors import ConfigError
from equicert.operators import Image
from equicert.schedules import TrainConfig
from equicert.training import Trainer


def moved(x: Tensor, image: Image, down: int, right: int, fill: float) -> Tensor:
    """The images with rows and columns taken off at one side and put on at the other."""
    around = functional.pad(x.reshape(-1, *image), (right, -right, down, -down), value=fill)
    return around.flatten(1)


@pytest.mark.parametrize("image", [Image(1, 4, 5), Image(3, 3, 4)])
@pytest.mark.parametrize("pixels", [1, 2])
def test_every_image_is_moved_by_one_of_the_moves(image: Image, pixels: int) -> None:
    x = torch.rand(400, image.size, dtype=torch.float64) + 1
    found = shifted(x, image, pixels, np.random.default_rng(0), 0.25)
    span = range(-pixels, pixels + 1)
    moves = torch.stack([moved(x, image, d, r, 0.25) for d in span for r in span])
    same = (moves == found).all(-1)  # (moves, batch)
    assert bool((same.sum(0) == 1).all())
    assert bool(same.any(1).all())  # each of up to 25 moves among 400 images


def test_no_pixels_is_no_move() -> None:
    x = torch.rand(3, 9)
    assert shifted(x, Image(1, 3, 3), 0, np.random.default_rng(0), 0.0) is x


def toy(inputs: int = 16) -> DataSet:
    x = np.random.default_rng(0).uniform(size=(40, inputs))
    y = np.arange(40) % 2
    return DataSet("toy", x, y, x, y, (0.0, 1.0))


def test_moves_are_those_of_the_seed_and_the_step() -> None:
    config = TrainConfig(hidden=4, epochs=2, batch_size=20, shift=1, learning_rate=1e-2)
    one, other = (Trainer(toy(), config).run().network.digest for _ in range(2))
    still = Trainer(toy(), TrainConfig.from_mapping({**config.to_mapping(), "shift": 0})).run()
    assert one == other != still.network.digest


def test_moves_need_images() -> None:
    with pytest.raises(ConfigError, match="image must be channels x height x width"):
        Trainer(toy(15), TrainConfig(hidden=4, shift=1))
    with pytest.raises(ConfigError, match="shift must be an integer >= 0"):
        TrainConfig(shift=-1)
