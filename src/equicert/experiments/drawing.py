"""What the pictures of all experiments share: curves with bands, axes of shares, small files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

from equicert.experiments.outcomes import Spread


def draw_band(
    axes: Axes,
    eps: Sequence[float],
    found: Sequence[Spread],
    colour: str,
    linestyle: str = "-",
    marker: str = "",
) -> None:
    """The mean over seeds as a line, and the area from the least to the greatest value."""
    lows, highs = [s.least for s in found], [s.greatest for s in found]
    axes.fill_between(eps, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.plot(
        eps,
        [s.mean for s in found],
        color=colour,
        linestyle=linestyle,
        marker=marker,
        markersize=4.5,
        linewidth=2,
        clip_on=False,
        zorder=3,
    )


def share_axes(axes: Axes, largest: float, units: str, of: str = "test images") -> None:
    """Labels and ticks: a share of samples against a radius up to `largest`."""
    axes.set(xlim=(0, largest), ylim=(0, 1.04))
    axes.set_xlabel(f"radius ε of the box around each image ({units})")
    axes.set_ylabel(f"share of {of}")
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def with_palette(png: bytes) -> bytes:
    """The same picture in 256 colours: lines and text need no more, and it is a third as large."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()
