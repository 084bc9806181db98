"""Figures of a report, from plain numbers to PNG bytes: the same numbers give the same bytes.

Figures are objects of their own here, not pyplot's: nothing global is touched or left open.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

_DPI: Final = 160
SMALL: Final = 8.5


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; the five of the curves stay apart for colour-blind readers."""

    paper: str
    ink: str
    muted: str
    grid: str
    interval: str
    lipschitz: str
    pgd: str
    fgsm: str
    clean: str
    pixels: str  # the colour map of images


LIGHT: Final = Theme(
    "#ffffff",
    "#1d2530",
    "#667085",
    "#e4e7ec",
    "#1259b8",
    "#0f8b8d",
    "#c8402f",
    "#b5710a",
    "#667085",
    "gray_r",
)
DARK: Final = Theme(
    "#171c24",
    "#e8ecf2",
    "#98a2b3",
    "#2c3440",
    "#6aa9ff",
    "#4fd0c7",
    "#ff8072",
    "#f4bd62",
    "#98a2b3",
    "gray",
)


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracies at one radius, as fractions of all samples."""

    eps: float
    certified_lipschitz: float
    certified_interval: float
    unbroken_pgd: float
    unbroken_fgsm: float


@dataclass(frozen=True)
class Shown:
    """One sample of the gallery: what it is, what is known of it, and the worst point found."""

    image: NDArray[np.float64]  # (height, width) in [0, 1]
    worst: NDArray[np.float64]  # (height, width)
    heading: str
    verdict: str
    below: str
    status: str  # "certified", "undecided", "broken" or "misclassified": the colour


def accuracy_figure(
    rows: Sequence[AccuracyRow], clean: float, trained_at: float, subtitle: str, theme: Theme
) -> bytes:
    """Accuracy against the radius: proved, attacked, and what is undecided between them.

    All curves are straight between the same radii, so that what is proved nowhere passes what was
    not broken.
    """
    eps = [row.eps for row in rows]
    with rc_context(style(theme)):
        figure = Figure(figsize=(8.6, 4.5), layout="constrained")
        axes = figure.subplots()
        proved = [row.certified_interval for row in rows]
        open_ = [row.unbroken_pgd for row in rows]
        axes.fill_between(eps, proved, color=theme.interval, alpha=0.10, linewidth=0)
        axes.axhline(clean, color=theme.clean, linestyle=(0, (1, 2)), linewidth=1.4, label="clean")
        fgsm = [row.unbroken_fgsm for row in rows]
        _line(axes, eps, fgsm, theme.fgsm, "unbroken by FGSM", marker="^", linestyle=":")
        _line(axes, eps, open_, theme.pgd, "unbroken by PGD", marker="o", linestyle="--")
        axes.fill_between(
            eps, proved, open_, color=theme.muted, alpha=0.28, linewidth=0, label="undecided"
        )
        _line(axes, eps, proved, theme.interval, "certified, interval (14)", marker="s", width=2.4)
        lipschitz = [row.certified_lipschitz for row in rows]
        _line(axes, eps, lipschitz, theme.lipschitz, "certified, Lipschitz (13)", marker="D")
        free = (clean + float(np.interp(trained_at, eps, fgsm))) / 2  # above all curves
        _mark_radius(axes, trained_at, free, f"trained at ε = {trained_at:g}", theme)
        axes.set(xlim=(0, max(eps)), ylim=(0, 1))
        axes.set_xlabel("radius ε of the box around each image")
        axes.set_ylabel("share of all test images")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.9)
        put_title(axes, "What is proved, and what attacks leave standing", subtitle, theme)
        return to_png(figure)


def training_figure(
    metrics: Sequence[Mapping[str, Any]], ramp: tuple[float, float], theme: Theme
) -> bytes:
    """Losses, accuracies and solver steps by epoch; the shaded band is where eps and kappa rise."""
    epochs = [float(line["epoch"]) for line in metrics]
    panels: list[tuple[str, list[tuple[str, str, str]]]] = [
        (
            "training loss",
            [
                ("nominal_loss", "at the images", theme.pgd),
                ("robust_loss", "over the boxes", theme.interval),
            ],
        ),
        (
            "test accuracy",
            [
                ("clean_accuracy", "clean", theme.clean),
                ("certified_accuracy", "certified", theme.interval),
            ],
        ),
        (
            "solver steps",
            [
                ("forward_steps", "state", theme.clean),
                ("joint_steps", "with bounds", theme.interval),
                ("adjoint_steps", "adjoint", theme.fgsm),
            ],
        ),
    ]
    with rc_context(style(theme)):
        figure = Figure(figsize=(8.6, 2.9), layout="constrained")
        for axes, (title, curves) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.axvspan(*ramp, color=theme.muted, alpha=0.14, linewidth=0)
            for key, label, colour in curves:
                values = [_number(line.get(key)) for line in metrics]
                axes.plot(epochs, values, color=colour, label=label)
            axes.set(xlim=(min(1.0, epochs[0]), max(epochs[-1], epochs[0] + 1)), ylim=(0, None))
            axes.set_xlabel("epoch")
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(loc="best", fontsize=SMALL)
            if title == "test accuracy":
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        return to_png(figure)


def gallery_figure(samples: Sequence[Shown], theme: Theme) -> bytes:
    """Images above the worst points that an attack found in their boxes, each with its verdict."""
    colours = {
        "certified": theme.interval,
        "undecided": theme.muted,
        "broken": theme.pgd,
        "misclassified": theme.fgsm,
    }
    with rc_context(style(theme)):
        figure = Figure(figsize=(8.6, 3.35), layout="constrained")
        grid = figure.subplots(2, len(samples), squeeze=False)
        for column, shown in enumerate(samples):
            colour = colours[shown.status]
            _image(grid[0, column], shown.image, colour, theme)
            _image(grid[1, column], shown.worst, colour, theme)
            grid[0, column].set_title(shown.heading, fontsize=SMALL)
            grid[0, column].set_xlabel(
                shown.verdict, fontsize=SMALL, color=colour, fontweight="bold"
            )
            grid[1, column].set_xlabel(shown.below, fontsize=SMALL, color=theme.ink)
        grid[0, 0].set_ylabel("test image", fontsize=SMALL)
        grid[1, 0].set_ylabel("worst found", fontsize=SMALL)
        return to_png(figure)


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    colour: str,
    label: str,
    *,
    marker: str,
    linestyle: str = "-",
    width: float = 1.7,
) -> None:
    axes.plot(
        x,
        y,
        color=colour,
        label=label,
        marker=marker,
        markersize=5,
        linestyle=linestyle,
        linewidth=width,
        clip_on=False,
        zorder=3,
    )


def _mark_radius(axes: Axes, eps: float, height: float, text: str, theme: Theme) -> None:
    axes.axvline(eps, color=theme.muted, linewidth=1, zorder=1)
    axes.annotate(
        text,
        (eps, height),
        xytext=(5, 0),
        textcoords="offset points",
        color=theme.muted,
        fontsize=SMALL,
        verticalalignment="center",
    )


def put_title(axes: Axes, title: str, subtitle: str, theme: Theme) -> None:
    """A bold title above the axes, and a line below it."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=24)
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 9),
        textcoords="offset points",
        color=theme.muted,
        fontsize=9,
    )


def _image(axes: Axes, image: NDArray[np.float64], colour: str, theme: Theme) -> None:
    axes.imshow(image, cmap=theme.pixels, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=1.6)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def style(theme: Theme) -> dict[Any, Any]:
    """Settings of matplotlib for one figure, whatever the user's own are."""
    return {
        "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
        "font.size": 9.5,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.7,
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "image.interpolation": "nearest",
    }


def to_png(figure: Figure) -> bytes:
    """The bytes of the PNG file: the same for the same figure."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
