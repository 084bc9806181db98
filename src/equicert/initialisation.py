"""The network that a training run begins with: what its settings name, and the draw of its seed."""

from __future__ import annotations

from typing import Final

import torch

from equicert.activations import parse_activation
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.policies import Policy
from equicert.schedules import TrainConfig
from equicert.solvers import Anderson, Average, ForwardBackward, PeacemanRachford, Picard
from equicert.weights import LBEN, Contracting, FeedForward, Monotone, RowSum, Weight

# Settings are words outside and values inside.
DTYPES: Final = {"float32": torch.float32, "float64": torch.float64}
_SOLVERS: Final = {
    "default": None,  # the network's
    "picard": Picard(),
    "average": Average(),
    "anderson": Anderson(),
    "peaceman_rachford": PeacemanRachford(),
    "forward_backward": ForwardBackward(),
}


def initial_network(data: DataSet, config: TrainConfig, policy: Policy) -> ImplicitNetwork:
    """The network of the seed, whatever the process drew before or uses by default."""
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(DTYPES[config.dtype])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return ImplicitNetwork(
                data.inputs,
                config.states,
                data.classes,
                activation=parse_activation(config.activation),
                weight=initial_weight(config),
                input_gain=config.input_gain,
                solver=_SOLVERS[config.solver],
                tolerance=config.tolerance,
                max_steps=config.max_steps,
                on_unconverged=policy,
            )
    finally:
        torch.set_default_dtype(default)


def initial_weight(config: TrainConfig) -> Weight:
    """The parametrisation that `config.weights` names, at random values from torch's generator."""
    match config.weights:
        case "contracting":
            return Contracting(config.hidden, config.gamma)
        case "row-sum":
            return RowSum(config.hidden, config.row_sum_bound)
        case "feed-forward":
            return FeedForward(config.widths)
        case "monotone":
            return Monotone(config.hidden, config.m)
        case "lben":
            return LBEN(config.hidden, config.m, lipschitz=config.prescribed_lipschitz)
