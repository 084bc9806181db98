"""Affine maps in a row, multiplied out: what stands between two activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from equicert.errors import ModelError
from equicert.operators import Convolution, Dense, Geometry, Image, Margins, Operator

_LARGEST: Final = 2**24  # entries of a matrix that two maps are multiplied to


@dataclass(frozen=True)
class Affine:
    """`A v + b` of v, float64, as an image or as a row.

    Attributes:
        A: (n, m); None for the identity.
        b: (n,); None for 0.
        width: n.
        image: the shape of what it gives; None for a row.
    """

    A: Operator | None
    b: Tensor | None
    width: int
    image: Image | None

    def then(self, A: Operator, b: Tensor | None, image: Image | None) -> Affine:
        """This, then `A v + b`."""
        moved = None if self.b is None else A.apply(self.b[None])[0]
        both = moved if b is None else b if moved is None else moved + b
        made = A if self.A is None else _product(A, self.A, self.b is None)
        return Affine(made, both, A.shape[0], image)

    def scaled(
        self,
        factor: Tensor,  # (n,)
        shift: Tensor,  # (n,)
    ) -> Affine:
        """This, then `factor v + shift` entry by entry."""
        b = shift if self.b is None else torch.addcmul(shift, factor, self.b)
        return replace(self, A=_scaled(self.A, factor), b=b)

    def shaped(self, image: Image | None) -> Affine:
        """The same numbers as an image or as a row."""
        return replace(self, image=image)


def pooling(image: Image, size: int, stride: int) -> Convolution:
    """The mean over squares of `size` pixels, channel by channel."""
    kernel = torch.zeros(image.channels, image.channels, size, size, dtype=torch.float64)
    for channel in range(image.channels):
        kernel[channel, channel] = 1 / size**2
    return Convolution(kernel, Geometry(image, Margins(0, 0, 0, 0), stride))


def _scaled(
    A: Operator | None,
    factor: Tensor,  # (n,)
) -> Operator:
    """`diag(factor) A`; of a convolution, the factor is one number a channel."""
    if isinstance(A, Convolution) and A.own is None:
        by_channel = factor.view(A.output.channels, -1)
        if bool((by_channel == by_channel[:, :1]).all()):
            return replace(A, kernel=A.kernel * by_channel[:, :1, None, None])
    if A is None:
        _limit(len(factor) ** 2)
        return Dense(torch.diag(factor))
    return Dense(_matrix(A) * factor[:, None])


def _product(A: Operator, before: Operator, unbiased: bool) -> Operator:
    """`A before`: a convolution where both are and it is one, else a matrix."""
    if isinstance(A, Convolution) and isinstance(before, Convolution):
        made = _convolved(A, before, unbiased)
        if made is not None:
            return made
    if isinstance(A, Dense):
        _limit(A.shape[0] * before.shape[1])
        return Dense(before.transpose().apply(A.A))
    _limit(A.shape[0] * before.shape[1])
    return Dense(A.apply(_matrix(before).mT).mT)


def _convolved(A: Convolution, before: Convolution, unbiased: bool) -> Convolution | None:
    """The convolution that two in a row are, if they are one.

    At a border of zeros they are not, unless what is added there, zeros, is what `before` gives
    beyond its own border: it reads nothing but zeros there, and has no bias.
    """
    g, h = before.geometry, A.geometry
    padded = max(h.margins) > 0
    kernel, s = before.kernel.shape[2:], g.stride
    blind = max(g.margins) == 0 and max(kernel) <= s and _covers(before)
    if before.own is not None or A.own is not None or g.circular or h.circular:
        return None
    if before.output != h.image:  # the same numbers, in another shape
        return None
    if padded and not (unbiased and blind):
        return None
    size = [k + s * (taps - 1) for k, taps in zip(kernel, A.kernel.shape[2:], strict=True)]
    made = A.kernel.new_zeros(A.kernel.shape[0], before.kernel.shape[1], *size)
    for i in range(A.kernel.shape[2]):
        for j in range(A.kernel.shape[3]):
            rows, columns = slice(s * i, s * i + kernel[0]), slice(s * j, s * j + kernel[1])
            made[:, :, rows, columns] += torch.einsum(
                "om,mcyx->ocyx", A.kernel[:, :, i, j], before.kernel
            )
    top, bottom, left, right = (m + s * n for m, n in zip(g.margins, h.margins, strict=True))
    combined = Convolution(made, Geometry(g.image, Margins(top, bottom, left, right), s * h.stride))
    return combined if combined.output == A.output else None


def _covers(before: Convolution) -> bool:
    """Whether every row and column of the image is read, so that margins begin where it ends."""
    _, height, width = before.geometry.image
    _, rows, columns = before.output
    s = before.geometry.stride
    return (rows * s, columns * s) == (height, width)


def _matrix(A: Operator) -> Tensor:  # (n, m)
    _limit(A.shape[0] * A.shape[1])
    return A.dense()


def _limit(entries: int) -> None:
    if entries > _LARGEST:
        raise ModelError(
            f"two affine layers in a row multiply out to a matrix of {entries} entries, more than"
            f" {_LARGEST}; put an activation between them"
        )
