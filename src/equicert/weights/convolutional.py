"""The contracting parametrisation of a convolution: (12) of [J22] with structure."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from equicert.errors import ConfigError
from equicert.operators import Convolution, Geometry, Image, Margins
from equicert.weights.base import Weight, check_gamma


@final
class Convolutional(Weight):
    """`W = [eta] T [eta]^-1 - diag(|T| 1) + gamma I`, T a convolution, eta a number a channel.

    Then `mu_{inf,[eta]^-1}(W) <= gamma < 1` for every kernel and every eta. `|T| 1` is the exact
    absolute row sum at each position: over channels and the taps of the kernel, fewer of them at a
    border of zeros. So W is a convolution whose diagonal varies from position to position. Kernels
    of even size reach one further below and to the right than above and to the left.

    Example:
        >>> weight = Convolutional(Image(16, 14, 14))
        >>> into = ConvolutionalInput(Image(1, 28, 28), channels=16, kernel_size=3, stride=2)
        >>> network = ImplicitNetwork(784, weight.states, 10, weight=weight, input_map=into)

    Args:
        image: the shape of the states.
        kernel_size: of T, in both directions.
        gamma: the bound on mu, a number below 1.
        circular: whether the image continues on its other side, as on a torus; else with zeros.
        scale: the entries of T begin uniform on `+-scale / (channels kernel_size^2)`; the rows of
            |T| then sum to about scale / 2, by which `z = psi(W_off z + U x + b)` is damped.

    Raises:
        ConfigError: gamma >= 1 or NaN, a kernel without entries.
        ModelError: a kernel larger than the image, with circular padding.
    """

    def __init__(
        self,
        image: Image,
        kernel_size: int = 3,
        gamma: float = 0.0,
        circular: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_gamma(gamma)
        if kernel_size < 1 or min(image) < 1:
            raise ConfigError(f"an image and a kernel have entries, got {image}, {kernel_size}")
        self.gamma = gamma
        margins = Margins.same(kernel_size, kernel_size)
        self.geometry = Geometry(image, margins, circular=circular)
        shape = (image.channels, image.channels, kernel_size, kernel_size)
        self.geometry.output(shape)  # refuses what does not fit before there is any
        width = scale / (image.channels * kernel_size**2)
        self.T = nn.Parameter((2 * torch.rand(shape) - 1) * width)
        self.log_eta = nn.Parameter(torch.zeros(image.channels))

    @property
    def states(self) -> int:
        """n."""
        return self.geometry.image.size

    def forward(self) -> Convolution:
        eta = self.log_eta.exp()
        T = Convolution(self.T, self.geometry)
        scaled = self.T * eta[:, None, None, None] / eta[:, None, None]
        own = T.diagonal() - T.absolute_row_sums() + self.gamma
        return Convolution(
            Convolution(scaled, self.geometry).off_diagonal().kernel, self.geometry, own
        )

    def eta(self) -> Tensor:  # (n,)
        _, height, width = self.geometry.image
        return self.log_eta.exp().repeat_interleave(height * width)

    def extra_repr(self) -> str:
        return f"{self.geometry}, kernel={tuple(self.T.shape)}, gamma={self.gamma}"
