"""The network that a training run begins with: what its settings name, and the draw of its seed."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn

from equicert.activations import parse_activation
from equicert.data import DataSet
from equicert.errors import ConfigError, ModelError
from equicert.layered import LayeredNetwork
from equicert.network import ImplicitNetwork
from equicert.operators import Geometry, Image, Margins
from equicert.policies import Policy
from equicert.schedules import TrainConfig
from equicert.solvers import Anderson, Average, ForwardBackward, PeacemanRachford, Picard
from equicert.torch_layers import module_of
from equicert.weights import (
    LBEN,
    Contracting,
    Convolutional,
    ConvolutionalInput,
    FeedForward,
    Monotone,
    RowSum,
    Weight,
)

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


def initial_network(
    data: DataSet, config: TrainConfig, policy: Policy
) -> ImplicitNetwork | LayeredNetwork:
    """The network of the seed, whatever the process drew before or uses by default.

    Raises:
        ConfigError: shapes that do not chain.
    """
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(DTYPES[config.dtype])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if not config.explicit:
                return _block(data.inputs, data.classes, config, policy)
            front, width = explicit_front(config, data.inputs)
            block = _block(width, data.classes, config, policy)
            return LayeredNetwork(nn.Sequential(*front, block), data.inputs)
    finally:
        torch.set_default_dtype(default)


def _block(inputs: int, outputs: int, config: TrainConfig, policy: Policy) -> ImplicitNetwork:
    into = initial_input_map(config, inputs)
    states = None if into is None else into.states
    return ImplicitNetwork(
        inputs,
        config.states if states is None else states.size,
        outputs,
        activation=parse_activation(config.activation),
        weight=initial_weight(config, states),
        input_map=into,
        input_gain=config.input_gain,
        solver=_SOLVERS[config.solver],
        tolerance=config.tolerance,
        max_steps=config.max_steps,
        on_unconverged=policy,
    )


def explicit_front(config: TrainConfig, inputs: int) -> tuple[list[nn.Module], int]:
    """The layers before the implicit block, as torch draws them, rows in and out; their width.

    Raises:
        ConfigError: the inputs are no such image, or a kernel is larger than what it reads.
    """
    phi, layers, width = parse_activation(config.activation), list[nn.Module](), inputs
    batch = config.normalisation == "batch"
    image = None
    for k, (out, size, stride) in enumerate(config.explicit, 1):
        if size is None:
            layers += [nn.Flatten()] if image is not None else []
            layers += [nn.Linear(width, out), *([nn.BatchNorm1d(out)] if batch else [])]
            image, width = None, out
        else:
            if image is None:
                image = image_of(config, inputs)
                layers.append(nn.Unflatten(1, tuple(image)))
            padding = (size - 1) // 2
            channels, *sides = image
            sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
            if min(sides) < 1:
                raise ConfigError(
                    f"layer {k} of front has a kernel of {size}, larger than the image of"
                    f" {image.height} x {image.width} that it reads; shorten front"
                )
            layers.append(nn.Conv2d(channels, out, size, stride, padding))
            layers += [nn.BatchNorm2d(out)] if batch else []
            image = Image(out, *sides)
            width = image.size
        layers.append(module_of(phi))
    return [*layers, *([nn.Flatten()] if image is not None else [])], width


def initial_input_map(config: TrainConfig, inputs: int) -> ConvolutionalInput | None:
    """The convolution by which x enters convolutional weights, whose states it shapes.

    Raises:
        ConfigError: the inputs are not such an image, or a kernel does not fit it.
    """
    if config.weights != "convolutional":
        return None
    image, k = image_of(config, inputs), config.input_kernel_size
    # Margins by which every stride'th pixel has the middle of a kernel of its own.
    geometry = Geometry(image, Margins.same(k, k), config.stride, config.padding == "circular")
    try:
        return ConvolutionalInput((config.channels, image.channels, k, k), geometry)
    except ModelError as error:
        raise ConfigError(str(error)) from error


def image_of(config: TrainConfig, inputs: int) -> Image:
    """The shape of the inputs as images: as set, or one square channel.

    Raises:
        ConfigError: they have another number of entries.
    """
    side = math.isqrt(inputs)
    text = config.image or f"1x{side}x{side}"
    parts = text.split("x")
    if len(parts) == 3 and all(part.isdecimal() and int(part) for part in parts):
        image = Image(*map(int, parts))
        if image.size == inputs:
            return image
    raise ConfigError(
        f"image must be channels x height x width with a product of {inputs}, the inputs of the"
        f" data, such as 3x32x32; got {text!r}"
    )


def initial_weight(config: TrainConfig, states: Image | None = None) -> Weight:
    """The parametrisation that `config.weights` names, at random values from torch's generator.

    Raises:
        ConfigError: convolutional weights without the image of the states, or a kernel beyond it.
    """
    match config.weights:
        case "contracting":
            return Contracting(config.hidden, config.gamma)
        case "row-sum":
            return RowSum(config.hidden, config.row_sum_bound)
        case "convolutional":
            return _convolutional(config, states)
        case "feed-forward":
            return FeedForward(config.widths)
        case "monotone":
            return Monotone(config.hidden, config.m)
        case "lben":
            return LBEN(config.hidden, config.m, lipschitz=config.prescribed_lipschitz)


def _convolutional(config: TrainConfig, states: Image | None) -> Convolutional:
    if states is None:
        raise ConfigError("convolutional weights need an image of states: pass it, or train")
    circular = config.padding == "circular"
    try:
        return Convolutional(states, config.kernel_size, config.gamma, circular)
    except ModelError as error:
        raise ConfigError(str(error)) from error
