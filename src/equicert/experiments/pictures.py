"""The picture of Figure 2: what is certified and what PGD leaves unbroken, against the radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from equicert.experiments.figure2 import MODELS, NOT_ROBUST, ROBUST
from equicert.experiments.measurements import Measured, Row, Spread, spread
from equicert.experiments.published import FIGURE2, FIGURE2_EPS
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png
from equicert.report import percent

# Where the label of a published value stands, in points from its mark.
_LABELS: Final = {
    (ROBUST, "certified"): (-9, -15, "right"),
    (ROBUST, "pgd"): (9, 7, "left"),
    (NOT_ROBUST, "certified"): (9, 5, "left"),
    (NOT_ROBUST, "pgd"): (9, 5, "left"),
}


def figure2_picture(
    models: Sequence[Measured],
    subtitle: str,
    units: str,
    *,
    published: bool = True,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG bytes, a function of the numbers alone: means over seeds, from least to greatest shaded.

    PGD curves are of the first samples, the same at every radius; the dots are of all samples.

    Args:
        models: what was measured.
        subtitle: what the numbers are of.
        units: of the radius, in words.
        published: whether to mark the published values: they speak of MNIST.
        theme: colours.
    """
    colours = {ROBUST: theme.interval, NOT_ROBUST: theme.pgd}
    with rc_context(style(theme)):
        figure = Figure(figsize=(7.5, 4.375), layout="constrained")
        axes = figure.subplots()
        for name in MODELS:
            _band(axes, models, name, lambda row: row.certified, colours[name], "-")
            _band(axes, models, name, lambda row: row.unbroken_first, colours[name], "--")
            main = spread(models, name, lambda m: m.main.unbroken)
            _dot(axes, models[0].main.eps, main, colours[name])
            if published:
                _mark_published(axes, name, colours[name], theme)
        axes.set(xlim=(0, models[0].rows[-1].eps), ylim=(0, 1))
        axes.set_xlabel(f"radius ε of the box around each image ({units})")
        axes.set_ylabel("share of test images")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        handles = _legend(colours, theme, published=published)
        axes.legend(handles=handles, loc="upper right", bbox_to_anchor=(1.0, 0.76), fontsize=SMALL)
        put_title(axes, "Certified and attacked: robust and ordinary training", subtitle, theme)
        return to_png(figure)


def _band(
    axes: Axes,
    models: Sequence[Measured],
    name: str,
    share: Callable[[Row], float],
    colour: str,
    linestyle: str,
) -> None:
    """The mean over seeds as a line, and the area from the least to the greatest value."""
    own = [measured.rows for measured in models if measured.model == name]
    found = [Spread.of([share(row) for row in rows]) for rows in zip(*own, strict=True)]
    eps = [row.eps for row in own[0]]
    lows, highs = [s.least for s in found], [s.greatest for s in found]
    axes.fill_between(eps, lows, highs, color=colour, alpha=0.2, linewidth=0)
    means = [s.mean for s in found]
    axes.plot(eps, means, color=colour, linestyle=linestyle, linewidth=2, clip_on=False, zorder=3)


def _dot(axes: Axes, eps: float, found: Spread, colour: str) -> None:
    ends = [[found.mean - found.least], [found.greatest - found.mean]]
    axes.errorbar(
        [eps], [found.mean], ends, color=colour, marker="o", markersize=5, capsize=2.5, zorder=5
    )


def _mark_published(axes: Axes, name: str, colour: str, theme: Theme) -> None:
    values = FIGURE2[name]
    marks = [("clean", 0.0, values.clean), ("certified", FIGURE2_EPS, values.certified)]
    marks.append(("pgd", FIGURE2_EPS, values.pgd))
    for kind, eps, value in marks:
        if value is None:
            continue
        _diamond(axes, eps, value, colour, theme)
        right, up, side = _LABELS.get((name, kind), (9, 4, "left"))
        axes.annotate(
            percent(value, 2 if kind != "clean" else 1),
            (eps, value),
            xytext=(right, up),
            textcoords="offset points",
            color=colour,
            fontsize=SMALL,
            horizontalalignment=side,
            zorder=7,
        )


def _diamond(axes: Axes, eps: float, value: float, colour: str, theme: Theme) -> None:
    axes.plot(
        [eps],
        [value],
        marker="D",
        markersize=6.5,
        markerfacecolor=theme.paper,
        markeredgecolor=colour,
        markeredgewidth=1.6,
        linestyle="none",
        clip_on=False,
        zorder=6,
    )


def _legend(colours: dict[str, str], theme: Theme, *, published: bool) -> list[Line2D]:
    handles = []
    for name in MODELS:
        for linestyle, what in (("-", "certified by (14)"), ("--", "unbroken by PGD")):
            label = f"{name} model, {what}"
            handles.append(
                Line2D([], [], color=colours[name], linestyle=linestyle, linewidth=2, label=label)
            )
    plain = {"color": theme.muted, "linestyle": "none"}
    handles.append(Line2D([], [], marker="o", markersize=5, label="PGD on all images", **plain))
    if published:
        hollow = {"markerfacecolor": theme.paper, "markeredgewidth": 1.6}
        label = "published means [J22]"
        handles.append(Line2D([], [], marker="D", markersize=6, label=label, **hollow, **plain))
    return handles
