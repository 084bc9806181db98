"""The picture of Figure 2: what is certified and what PGD leaves unbroken, against the radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from equicert.experiments.drawing import draw_band, share_axes, with_palette
from equicert.experiments.figure2.definition import MODELS, NOT_ROBUST, ROBUST
from equicert.experiments.figure2.measurements import Measured, Row, spread
from equicert.experiments.outcomes import Spread
from equicert.experiments.published import FIGURE2, FIGURE2_EPS
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png
from equicert.report import percent


def figure2_picture(
    models: Sequence[Measured],
    subtitle: str,
    units: str,
    *,
    published: bool = True,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG bytes, a function of the numbers alone: means over seeds, from least to greatest shaded.

    PGD curves are of the first samples, the same at every radius; dots, where there are any, are of
    all samples.

    Args:
        models: what was measured.
        subtitle: what the numbers are of.
        units: of the radius, in words.
        published: whether to mark the published values: they speak of MNIST.
        theme: colours.
    """
    dots = models[0].main.first < models[0].samples
    colours = {ROBUST: theme.interval, NOT_ROBUST: theme.pgd}
    with rc_context(style(theme)):
        figure = Figure(figsize=(7.5, 4.375), layout="constrained")
        axes = figure.subplots()
        for name in MODELS:
            _band(axes, models, name, lambda row: row.certified, colours[name], "-")
            _band(axes, models, name, lambda row: row.unbroken_first, colours[name], "--")
            if dots:
                main = spread(models, name, lambda m: m.main.unbroken)
                _dot(axes, models[0].main.eps, main, colours[name])
            if published:
                _mark_published(axes, name, colours[name], theme)
        share_axes(axes, models[0].rows[-1].eps, units)
        handles = _legend(colours, theme, dots=dots, published=published)
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL)
        put_title(axes, "Certified and attacked: robust and ordinary training", subtitle, theme)
        return with_palette(to_png(figure))


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
    draw_band(axes, [row.eps for row in own[0]], found, colour, linestyle)


def _dot(axes: Axes, eps: float, found: Spread, colour: str) -> None:
    ends = [[found.mean - found.least], [found.greatest - found.mean]]
    axes.errorbar(
        [eps], [found.mean], ends, color=colour, marker="o", markersize=5, capsize=2.5, zorder=5
    )


def _mark_published(axes: Axes, name: str, colour: str, theme: Theme) -> None:
    """Diamonds, and beside them what they stand for, in the free space above the curves."""
    values = FIGURE2[name]
    for value in (values.certified, values.pgd):
        _diamond(axes, FIGURE2_EPS, value, colour, theme)
    text = f"{percent(values.pgd, 2)} PGD\n{percent(values.certified, 2)} certified"
    _label(axes, FIGURE2_EPS, values.pgd, text, colour, theme)
    if values.clean is not None:
        _diamond(axes, 0.0, values.clean, colour, theme)
        _label(axes, 0.0, values.clean, f"{percent(values.clean)} clean", colour, theme)


def _label(axes: Axes, eps: float, value: float, text: str, colour: str, theme: Theme) -> None:
    label = axes.annotate(
        text,
        (eps, value),
        xytext=(8, 6.5),
        textcoords="offset points",
        color=colour,
        fontsize=SMALL,
        linespacing=1.15,
        zorder=7,
    )
    label.set_path_effects([withStroke(linewidth=3, foreground=theme.paper)])


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


def _legend(colours: dict[str, str], theme: Theme, *, dots: bool, published: bool) -> list[Line2D]:
    handles = []
    for name in MODELS:
        handles.append(
            Line2D(
                [], [], linewidth=2, linestyle="-", label=f"{name}: certified", color=colours[name]
            )
        )
        handles.append(
            Line2D(
                [],
                [],
                linewidth=2,
                linestyle="--",
                label=f"{name}: unbroken by PGD",
                color=colours[name],
            )
        )
    if dots:
        handles.append(_mark("o", 5.0, theme.muted, theme, label="PGD, all images"))
    if published:
        handles.append(_mark("D", 6.0, theme.paper, theme, label="published means [J22]"))
    return handles


def _mark(marker: str, size: float, inside: str, theme: Theme, *, label: str) -> Line2D:
    return Line2D(
        [],
        [],
        color=theme.muted,
        linestyle="none",
        marker=marker,
        markersize=size,
        markerfacecolor=inside,
        markeredgewidth=1.6,
        label=label,
    )
