"""The picture of the scaling: time of a joint solve against size and against tolerance."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from PIL import Image

from equicert.figures import LIGHT, SMALL, Theme, style, to_png

# Picard, the average iteration, the products of Picard's steps: kept apart by marker and dash, too.
_CURVES: Final = (
    ("solve_average", "average iteration [J22]", "pgd", "o", "--"),
    ("solve", "Picard, eliminated form", "interval", "s", "-"),
    ("solve_products", "its matrix products alone", "muted", "^", ":"),
)
_SOLVERS: Final = {"solve": "picard", "solve_average": "average"}


def speed_picture(scaling: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """PNG bytes, a function of the numbers alone.

    Args:
        scaling: what `scaling.measure` returned.
        theme: colours.
    """
    settings = scaling["settings"]
    with rc_context(style(theme)):
        figure = Figure(figsize=(7.5, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, scaling["hidden"], "hidden", theme)
        left.set_xlabel("hidden units n")
        left.set_xticks([row["hidden"] for row in scaling["hidden"]])
        left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.xaxis.set_minor_formatter(NullFormatter())
        left.set_ylabel("CPU time of a joint solve (ms)")
        _title(left, f"random networks, tolerance {settings['tolerance']:g}, float32")
        _curves(right, scaling["tolerance"], "tolerance", theme)
        right.invert_xaxis()
        right.set_xlabel("tolerance (numbers: mean steps)")
        _title(right, f"trained network, n = {settings['hidden']}, float64")
        for key in _SOLVERS:
            _steps(right, scaling["tolerance"], key, theme)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=SMALL)
        return _with_palette(to_png(figure))


def _curves(axes: Axes, rows: Sequence[dict[str, Any]], by: str, theme: Theme) -> None:
    for key, label, colour, marker, line in _CURVES:
        known = [row for row in rows if key in row["times"]]
        axes.plot(
            [row[by] for row in known],
            [1e3 * row["times"][key]["cpu"] for row in known],
            color=getattr(theme, colour),
            label=label,
            marker=marker,
            markersize=4.5,
            linestyle=line,
        )
    axes.set(xscale="log", yscale="log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.margins(y=0.12)


def _steps(axes: Axes, rows: Sequence[dict[str, Any]], key: str, theme: Theme) -> None:
    """Beside every second marker, the mean steps of a sample."""
    for row in rows[::2]:
        axes.annotate(
            f"{row['steps'][_SOLVERS[key]]['forward']:.0f}",
            (row["tolerance"], 1e3 * row["times"][key]["cpu"]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=theme.ink,
            fontsize=SMALL - 1,
        )


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=SMALL + 1, fontweight="bold")


def _with_palette(png: bytes) -> bytes:
    """The same picture in 64 colours: lines and text need no more."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()
