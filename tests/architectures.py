"""Small Sequentials of every layer that has an implicit form, drawn, with weights of any sign."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from equicert.activations import parse_activation
from equicert.network import ImplicitNetwork
from equicert.operators import Geometry, Image, Margins
from equicert.torch_layers import module_of
from equicert.weights import Contracting, Convolutional, ConvolutionalInput

Draw = Callable[[st.SearchStrategy], object]
EVERY = ("relu", "leaky_relu(0.1)", "tanh", "elu(0.5)", "hard_tanh", "softplus", "sigmoid")
SOME = ("relu", "leaky_relu(0.1)", "tanh", "elu(0.5)")


class Drawing:
    """A Sequential that is being drawn layer by layer."""

    def __init__(self, draw: st.DrawFn, activation: str, image: Image | None, width: int) -> None:
        self.draw, self.phi = draw, parse_activation(activation)
        self.layers: list[nn.Module] = []
        self.image, self.width, self.inputs = image, width, width
        self.states = 0
        self.pending = False  # whether something affine is
        if image is not None:
            self.layers.append(nn.Unflatten(1, tuple(image)))

    def grow(self) -> None:
        """One more layer, of those that fit."""
        choices = [self.linear, self.implicit, self.normalise]
        if self.image is not None:
            choices = [self.convolve, self.convolve, self.pool, self.normalise, self.flatten]
        if self.pending:
            choices += [self.act, self.act]
        self.draw(st.sampled_from(choices))()

    def act(self) -> None:
        if self.pending:
            self.layers.append(module_of(self.phi))
            self.pending, self.states = False, self.states + self.width

    def flatten(self) -> None:
        if self.image is not None:
            self.layers.append(nn.Flatten())
            self.image = None

    def linear(self) -> None:
        self.flatten()
        out, bias = self.draw(st.integers(1, 5)), self.draw(st.booleans())
        self.layers.append(nn.Linear(self.width, out, bias=bias))
        self.width, self.pending = out, True

    def normalise(self) -> None:
        affine = self.draw(st.booleans())
        of_rows = self.image is None
        channels = self.width if self.image is None else self.image.channels
        layer = (nn.BatchNorm1d if of_rows else nn.BatchNorm2d)(channels, affine=affine)
        self.layers.append(layer)
        self.pending = True

    def pool(self) -> None:
        assert self.image is not None
        least = min(self.image[1:])
        size = self.draw(st.integers(1, min(3, least)))
        stride = self.draw(st.sampled_from([None, 1, 2, 3]))
        self.layers.append(nn.AvgPool2d(size, stride))
        s, (c, h, w) = stride or size, self.image
        self.became(Image(c, (h - size) // s + 1, (w - size) // s + 1))

    def convolve(self) -> None:
        assert self.image is not None
        c, h, w = self.image
        circular = self.draw(st.booleans())
        kernel = self.draw(st.integers(1, min(3, h))), self.draw(st.integers(1, min(3, w)))
        padding = self.draw(
            st.sampled_from(["same", "valid", 0, 1, (1, 0), (0, 1), (kernel[0] // 2, 1)])
        )
        stride = 1 if padding == "same" else self.draw(st.integers(1, 2))
        mode = "circular" if circular else "zeros"
        out, bias = self.draw(st.integers(1, 2)), self.draw(st.booleans())
        layer = nn.Conv2d(c, out, kernel, stride, padding, bias=bias, padding_mode=mode)
        self.layers.append(layer)
        with torch.no_grad():
            shape = layer(torch.zeros(1, c, h, w)).shape
        self.became(Image(*shape[1:]))

    def became(self, image: Image) -> None:
        self.image, self.width, self.pending = image, image.size, True

    def implicit(self) -> None:
        """A block with a matrix; of images, often with a convolution."""
        image = self.image
        self.flatten()
        out, n = self.draw(st.integers(1, 4)), self.draw(st.integers(1, 5))
        gamma = self.draw(st.sampled_from([-1.0, 0.0, 0.75]))
        if image is not None and self.draw(st.booleans()):
            k, circular = self.draw(st.integers(1, min(3, *image[1:]))), self.draw(st.booleans())
            geometry = Geometry(image, Margins.same(k, k), 1, circular)
            into = ConvolutionalInput((2, image.channels, k, k), geometry)
            weight, n = Convolutional(into.states, k, gamma, circular), into.states.size
        else:
            into, weight = None, Contracting(n, gamma)
        block = ImplicitNetwork(
            *(self.width, n, out),
            activation=self.phi,
            weight=weight,
            input_map=into,
            tolerance=1e-11,
        )
        self.layers.append(block)
        self.width, self.pending, self.states = out, True, self.states + n

    def end(self) -> nn.Sequential:
        """With something nonlinear in it, and outputs."""
        self.flatten()
        if not self.states:
            if not self.pending:
                self.linear()
            self.act()
        if not isinstance(self.layers[-1], nn.Linear | ImplicitNetwork):
            self.linear()
        module = nn.Sequential(*self.layers)
        scatter(module, self.draw(st.integers(0, 2**16)))
        return module.eval()


def scatter(module: nn.Module, seed: int) -> None:
    """Weights and statistics at random, of any sign, with an entry that is 0."""
    generator = torch.Generator().manual_seed(seed)

    def fresh(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
                for parameter in layer.parameters(recurse=False):
                    size = math.sqrt(max(parameter[0].numel(), 1))
                    parameter.copy_(fresh(parameter) / size)
                    parameter.view(-1)[-1] = 0.0
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.copy_(fresh(layer.running_mean))
                layer.running_var.copy_(fresh(layer.running_var).square() + 0.1)


@st.composite
def architectures(
    draw: st.DrawFn,
    activations: tuple[str, ...] = SOME,
    most: int = 5,
    images: bool = True,
) -> tuple[nn.Sequential, int]:
    """A Sequential in evaluation mode, float64, and the width of its rows."""
    image = None
    if images and draw(st.booleans()):
        image = Image(draw(st.integers(1, 2)), draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    width = draw(st.integers(1, 4)) if image is None else image.size
    drawing = Drawing(draw, draw(st.sampled_from(activations)), image, width)
    for _ in range(draw(st.integers(0, most))):
        drawing.grow()
    return drawing.end(), width
