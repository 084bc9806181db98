"""From the settings of a training run to the parametrisation of W that it begins with."""

from __future__ import annotations

from equicert.schedules import TrainConfig
from equicert.weights import Contracting, FeedForward, RowSum, Weight


def initial_weight(config: TrainConfig) -> Weight:
    """The parametrisation that `config.weights` names, at random values from torch's generator."""
    match config.weights:
        case "contracting":
            return Contracting(config.hidden, config.gamma)
        case "row-sum":
            return RowSum(config.hidden, config.row_sum_bound)
        case "feed-forward":
            return FeedForward(config.widths)
