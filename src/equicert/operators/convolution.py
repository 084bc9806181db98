"""Convolutions: one kernel for all positions of an image, perhaps with a diagonal of its own.

In float64, which proofs are made in, products are those of matrices, gathered by im2col: plain
inner products of `terms` terms, whatever algorithm a library would choose for a convolution. In
float32 the library chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from equicert.errors import ModelError
from equicert.operators.base import Operator
from equicert.operators.geometry import Geometry, Image

_BLOCK = 2**21  # gathered numbers that are worked on at a time, 16 megabytes


@final
@dataclass(frozen=True)
class Convolution(Operator):
    """`(A v)[o, y, x] = sum_{c, i, j} kernel[o, c, i, j] v_padded[c, y s + i, x s + j]`.

    Attributes:
        kernel: (out, channels, kh, kw).
        geometry: of the input.
        own: (n,) or None: the diagonal of A, in the place of what the kernel has there, which must
            be 0. It needs stride 1 and an output of the shape of the input.

    Raises:
        ModelError: shapes that do not fit, or a kernel with entries in the place of `own`.
    """

    kernel: Tensor
    geometry: Geometry
    own: Tensor | None = None

    def __post_init__(self) -> None:
        output = self.output
        if self.own is None:
            return
        if not self._square or tuple(self.own.shape) != (output.size,):
            raise ModelError(
                "a convolution with a diagonal keeps the shape of the image,"
                f" {self.geometry.image}, with stride 1; got {output} with a diagonal of"
                f" {tuple(self.own.shape)}"
            )
        if bool((self._taps() != 0).any()):
            raise ModelError("a convolution with a diagonal has a kernel that is 0 there")

    @property
    def structure(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As files spell it."""
        return str(self.geometry) + ("" if self.own is None else " diagonal")

    @property
    def output(self) -> Image:
        """The shape of the output."""
        return self.geometry.output(tuple(self.kernel.shape))

    @property
    def shape(self) -> tuple[int, int]:
        return self.output.size, self.geometry.image.size

    @property
    def terms(self) -> int:
        return self.kernel[0].numel() + (self.own is not None)

    def apply(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        if v.dtype != torch.float64:
            product = self._convolved(v)
        else:
            product = _in_parts(self._gathered, v, self.output.size, self._gathers)
        return product if self.own is None else torch.addcmul(product, v, self.own)

    def _convolved(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        """By the library's convolution, which is fastest with channels last."""
        margins, stride = self.geometry.symmetric, self.geometry.stride
        images = (
            self.geometry.padded(v) if margins is None else v.reshape(len(v), *self.geometry.image)
        )
        images = images.contiguous(memory_format=torch.channels_last)
        found = functional.conv2d(images, self.kernel, stride=stride, padding=margins or 0)
        return found.contiguous().flatten(1)

    def _deconvolved(
        self,
        v: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, m)
        margins, stride = self.geometry.symmetric, self.geometry.stride
        images = v.reshape(len(v), *self.output).contiguous(memory_format=torch.channels_last)
        if margins is None:
            spread = functional.conv_transpose2d(images, self.kernel, stride=stride)
            return self.geometry.unpadded(spread)
        missed = tuple(
            have + 2 * margin - kernel - stride * (steps - 1)
            for have, margin, kernel, steps in zip(
                self.geometry.image[1:],
                margins,
                self.kernel.shape[2:],
                self.output[1:],
                strict=True,
            )
        )
        found = functional.conv_transpose2d(
            images, self.kernel, stride=stride, padding=margins, output_padding=missed
        )
        return found.contiguous().flatten(1)

    def _gathered(
        self,
        v: Tensor,  # (batch, m) float64
    ) -> Tensor:  # (batch, n)
        size = (self.kernel.shape[2], self.kernel.shape[3])
        taken = functional.unfold(self.geometry.padded(v), size, stride=self.geometry.stride)
        return (self.kernel.flatten(1) @ taken).flatten(1)

    def adjoint(
        self,
        v: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, m)
        """`A^T v` for each row v."""
        if v.dtype != torch.float64:
            product = self._deconvolved(v)
        else:
            product = _in_parts(self._scattered, v, self.geometry.image.size, self._gathers)
        return product if self.own is None else torch.addcmul(product, v, self.own)

    def _scattered(
        self,
        v: Tensor,  # (batch, n) float64
    ) -> Tensor:  # (batch, m)
        out, height, width = self.output
        kh, kw, stride = self.kernel.shape[2], self.kernel.shape[3], self.geometry.stride
        given = self.kernel.flatten(1).mT @ v.reshape(len(v), out, -1)
        size = (stride * (height - 1) + kh, stride * (width - 1) + kw)
        return self.geometry.unpadded(functional.fold(given, size, (kh, kw), stride=stride))

    def cotangents(
        self,
        v: Tensor,  # (batch, m)
        p: Tensor,  # (batch, n)
        majorant: bool = False,
    ) -> tuple[Tensor, ...]:
        """By the library's convolution in either type: no proof rests on gradients."""
        margins, stride = self.geometry.symmetric, self.geometry.stride
        images = (
            self.geometry.padded(v) if margins is None else v.reshape(len(v), *self.geometry.image)
        )
        size, given = list(self.kernel.shape), p.reshape(len(p), *self.output)
        around: Any = margins or 0  # a pair serves, which its annotation leaves out
        found = conv2d_weight(images, size, given, stride=stride, padding=around)
        if majorant:
            signs = self.kernel.detach().sign()
            found *= signs if self.own is not None else torch.where(self._at_own(), 1, signs)
        return (found,) if self.own is None else (found, (p * v).sum(0))

    @property
    def _gathers(self) -> int:
        """Numbers that are gathered for a row."""
        _, height, width = self.output
        return self.kernel[0].numel() * height * width

    def transpose(self) -> Transposed:
        return Transposed(self)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Convolution:
        own = None if self.own is None else fn(self.own)
        return Convolution(fn(self.kernel), self.geometry, own)

    def off_diagonal(self) -> Convolution:
        return Convolution(torch.where(self._at_own(), 0, self.kernel), self.geometry)

    def majorant(self) -> Convolution:
        if self.own is not None:
            return replace(self, kernel=self.kernel.abs())
        kernel = torch.where(self._at_own(), self.kernel, self.kernel.abs())
        return replace(self, kernel=kernel)

    def diagonal(self) -> Tensor:  # (n,)
        if self.own is not None:
            return self.own
        _, height, width = self.output
        return self._taps().repeat_interleave(height * width)

    @property
    def _square(self) -> bool:
        return self.geometry.stride == 1 and self.output == self.geometry.image

    def require_square(self) -> None:
        if not self._square:
            raise ModelError(
                "W, or a block on its diagonal, maps images to images of the same shape with stride"
                f" 1; this one maps {tuple(self.geometry.image)} to {tuple(self.output)} with"
                f" stride {self.geometry.stride}"
            )

    def _at_own(self) -> Tensor:  # (out, channels, kh, kw) bool
        """Which entries of the kernel an output reads its own input by."""
        self.require_square()
        at = torch.zeros_like(self.kernel, dtype=torch.bool)
        top, left = self.geometry.margins.top, self.geometry.margins.left
        at[:, :, top, left] = torch.eye(len(at), dtype=torch.bool, device=at.device)
        return at

    def _taps(self) -> Tensor:  # (out,)
        return self.kernel[self._at_own()]

    def tensors(self) -> Mapping[str, Tensor]:
        own = {} if self.own is None else {".diagonal": self.own}
        return {".kernel": self.kernel, **own}


@final
@dataclass(frozen=True)
class Transposed(Operator):
    """`A^T` of a convolution A."""

    of: Convolution

    @property
    def structure(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """No file holds it."""
        return f"transposed {self.of.structure}"

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.of.shape
        return m, n

    @property
    def terms(self) -> int:
        out, _, kh, kw = self.of.kernel.shape
        times = self.of.geometry.returns(self.of.output)
        return out * kh * kw * times + (self.of.own is not None)

    def apply(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        return self.of.adjoint(v)

    def transpose(self) -> Convolution:
        return self.of

    def map(self, fn: Callable[[Tensor], Tensor]) -> Transposed:
        return Transposed(self.of.map(fn))

    def off_diagonal(self) -> Transposed:
        return Transposed(self.of.off_diagonal())

    def majorant(self) -> Transposed:
        return Transposed(self.of.majorant())

    def diagonal(self) -> Tensor:  # (n,)
        return self.of.diagonal()

    def tensors(self) -> Mapping[str, Tensor]:
        return self.of.tensors()


def _in_parts(
    product: Callable[[Tensor], Tensor],
    v: Tensor,  # (batch, m)
    width: int,
    gathers: int,
) -> Tensor:  # (batch, width)
    """Few rows at a time, so that what is gathered stays in the caches."""
    rows = max(1, _BLOCK // gathers)
    if len(v) == 0:
        return v.new_zeros(0, width)
    if len(v) <= rows:
        return product(v)
    return torch.cat([product(part) for part in v.split(rows)])
