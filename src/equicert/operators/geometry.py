"""Where the taps of a convolution lie: an image, a stride, margins, and what fills those.

Images are flattened channel by channel, row by row: entry `(c * height + y) * width + x`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from torch import Tensor
from torch.nn import functional

from equicert.errors import ModelError

_SPELLING = re.compile(
    r"convolution (\d{1,9})x(\d{1,9})x(\d{1,9}) stride (\d{1,9}) (zeros|circular)"
    r" (\d{1,9}) (\d{1,9}) (\d{1,9}) (\d{1,9})"
)
_LARGEST = 2**22  # numbers of an image within its margins; the checker takes no more
_LARGEST_KERNEL = 2**28  # a gigabyte in float32


class Image(NamedTuple):
    """The shape of an image."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.channels * self.height * self.width


class Margins(NamedTuple):
    """Rows and columns that are added around an image."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def same(cls, height: int, width: int) -> Self:
        """Those by which a kernel of this size and stride 1 keeps the shape of an image.

        Of an odd number the smaller half is above and on the left (floor), the larger below and on
        the right (ceiling).
        """
        top, left = (height - 1) // 2, (width - 1) // 2
        return cls(top, height - 1 - top, left, width - 1 - left)


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an image.

    Attributes:
        image: the input.
        stride: how far it moves each time, in both directions.
        margins: added around the image.
        circular: whether they continue it on its other side, as on a torus; else they are 0.

    Raises:
        ModelError: an empty image, a stride below 1, a negative margin, an absurd size.
    """

    image: Image
    margins: Margins
    stride: int = 1
    circular: bool = False

    def __post_init__(self) -> None:
        if min(self.image) < 1 or self.stride < 1 or min(self.margins) < 0:
            raise ModelError(
                f"a convolution needs an image of at least one pixel, a stride of at least 1 and"
                f" margins of at least 0, got {self}"
            )
        top, bottom, left, right = self.margins
        channels, height, width = self.image
        if channels * (top + height + bottom) * (left + width + right) > _LARGEST:
            raise ModelError(f"{self} is an image of more than {_LARGEST} numbers")

    def __str__(self) -> str:
        image, margins = "x".join(map(str, self.image)), " ".join(map(str, self.margins))
        padding = "circular" if self.circular else "zeros"
        return f"convolution {image} stride {self.stride} {padding} {margins}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The geometry that `str` gave.

        Raises:
            ModelError: it did not.
        """
        found = _SPELLING.fullmatch(text)
        if found is not None:
            c, h, w, stride, *margins = (int(v) for v in (*found.groups()[:4], *found.groups()[5:]))
            made = cls(Image(c, h, w), Margins(*margins), stride, found[5] == "circular")
            if str(made) == text:
                return made
        raise ModelError(
            f"{text[:80]!r} is no convolution; it is spelt such as 'convolution 1x28x28 stride 2"
            " zeros 1 1 1 1'"
        )

    def output(
        self,
        kernel: tuple[int, ...],  # (out, channels, kh, kw)
    ) -> Image:
        """The shape of the output.

        Raises:
            ModelError: the kernel has other channels than the image, does not fit, or is absurdly
                large.
        """
        if len(kernel) != 4 or kernel[1] != self.image.channels or min(kernel) < 1:
            raise ModelError(
                f"a kernel over an image of {self.image.channels} channels has the shape (out,"
                f" {self.image.channels}, height, width), none of them 0; got {tuple(kernel)}"
            )
        if math.prod(kernel) > _LARGEST_KERNEL:
            raise ModelError(
                f"a kernel of the shape {tuple(kernel)} has more than {_LARGEST_KERNEL} entries:"
                " take fewer channels"
            )
        top, bottom, left, right = self.margins
        _, height, width = self.image
        if self.circular and (
            kernel[2] > height
            or kernel[3] > width
            or max(top, bottom) > height
            or max(left, right) > width
        ):
            raise ModelError(
                f"a kernel of {kernel[2]} x {kernel[3]} with margins {tuple(self.margins)} is"
                f" larger than the image of {height} x {width} that circular padding repeats: taps"
                " would meet; use zero padding or a smaller kernel"
            )
        rows = (height + top + bottom - kernel[2]) // self.stride + 1
        columns = (width + left + right - kernel[3]) // self.stride + 1
        if min(rows, columns) < 1:
            raise ModelError(
                f"a kernel of {kernel[2]} x {kernel[3]} is larger than the image of {height} x"
                f" {width} with its margins {tuple(self.margins)}; widen those"
            )
        return Image(kernel[0], rows, columns)

    def returns(self, output: Image) -> int:
        """How often at most one tap reads one pixel: more than once only around a torus."""
        if not self.circular:
            return 1
        times = 1
        for steps, length in zip(output[1:], self.image[1:], strict=True):
            period = length // math.gcd(self.stride, length)  # of the places that a tap stands at
            times *= -(-steps // period)
        return times

    @property
    def symmetric(self) -> tuple[int, int] | None:
        """The margins above and below, left and right, where they are alike and zeros."""
        top, bottom, left, right = self.margins
        alike = top == bottom and left == right and not self.circular
        return (top, left) if alike else None

    def padded(
        self,
        v: Tensor,  # (batch, channels height width)
    ) -> Tensor:  # (batch, channels, height + top + bottom, width + left + right)
        """The images within their margins."""
        images = v.reshape(len(v), *self.image)
        top, bottom, left, right = self.margins
        around = (left, right, top, bottom)
        return functional.pad(images, around, "circular" if self.circular else "constant")

    def unpadded(
        self,
        images: Tensor,  # (batch, channels, up to the padded height, and width)
    ) -> Tensor:  # (batch, channels height width)
        """The adjoint of `padded`; rows and columns missing at the far ends count as 0."""
        top, bottom, left, right = self.margins
        _, height, width = self.image
        short = (left + width + right - images.shape[3], top + height + bottom - images.shape[2])
        images = functional.pad(images, (0, short[0], 0, short[1]))
        if self.circular:
            images = _wrapped(_wrapped(images, 2, top, height), 3, left, width)
        else:
            images = images[:, :, top : top + height, left : left + width]
        return images.flatten(1)


def _wrapped(
    images: Tensor,  # (batch, channels, height, width)
    dim: int,
    before: int,
    length: int,
) -> Tensor:
    """What lies in the margins along a dimension is added on the other side."""
    inside = images.narrow(dim, before, length).clone()
    after = images.shape[dim] - before - length
    inside.narrow(dim, length - before, before).add_(images.narrow(dim, 0, before))
    inside.narrow(dim, 0, after).add_(images.narrow(dim, before + length, after))
    return inside
