"""The picture: certified accuracy against the radius, a line a model, beside what is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from equicert.experiments.convolutions.definition import ATTACK, CERTIFY, MAIN, Convolutions
from equicert.experiments.drawing import draw_band, share_axes, with_palette
from equicert.experiments.outcomes import Outcome, spread
from equicert.experiments.published import PublishedShare
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png
from equicert.report import percent

_DASHES: Final = ("-", "--", "-.", ":")
_MARKERS: Final = "osD^vP"
_SPECIAL: Final = "*"  # of what is published
_ABOVE: Final = 0.8  # shares that the second panel shows
_GAP: Final = 0.0085  # between two labels there, so that they do not touch
_BESIDE: Final = 0.018  # from a published value to its label, in radii


def convolutions_picture(
    study: Convolutions,
    found: Sequence[Outcome],
    published: Sequence[PublishedShare],
    subtitle: str,
    units: str,
    *,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG bytes, a function of the numbers alone: means over seeds, from least to greatest shaded.

    Where anything is published, a second panel shows the upper part, with what it is.

    Args:
        study: what was run.
        found: what was measured.
        published: values to mark.
        subtitle: what the numbers are of.
        units: of the radius, in words.
        theme: colours.
    """
    with rc_context(style(theme)):
        figure = Figure(figsize=(11, 5.4) if published else (7.5, 5.4), layout="constrained")
        whole, *upper = figure.subplots(1, 2 if published else 1, squeeze=False)[0]
        handles = _draw(whole, study, found, theme)
        for axes in upper:
            _draw(axes, study, found, theme)
        for axes in (whole, *upper):
            _mark(axes, published, theme)
            share_axes(axes, study.radii[-1], units)
        for axes in upper:
            _enlarge(axes)
            _name(axes, published, theme)
            axes.set_title(f"the same, above {percent(_ABOVE, 0)}", loc="left", fontsize=10)
        if published:
            look = {"marker": _SPECIAL, "markersize": 9, "color": theme.ink, "linestyle": "none"}
            handles.append(Line2D([], [], label="published, feed-forward or [J22]", **look))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL)
        put_title(whole, "Certified by box bounds (14)", subtitle, theme)
        return with_palette(to_png(figure))


def _draw(axes: Axes, study: Convolutions, found: Sequence[Outcome], theme: Theme) -> list[Line2D]:
    """The curves and the attacks; what the legend says of them."""
    colours = (theme.interval, theme.pgd, theme.fgsm, theme.lipschitz, theme.muted, theme.ink)
    handles = []
    for k, entry in enumerate(study.entries):
        colour, marker = colours[k % len(colours)], _MARKERS[k % len(_MARKERS)]
        dash = _DASHES[k % len(_DASHES)]
        values = [
            spread(found, entry.name, lambda o, e=eps: o.at(CERTIFY, e).share)
            for eps in study.radii
        ]
        draw_band(axes, study.radii, values, colour, dash, marker)
        left = [spread(found, entry.name, lambda o, e=eps: o.at(ATTACK, e).share) for eps in MAIN]
        axes.plot(MAIN, [s.mean for s in left], "x", color=colour, markersize=7, zorder=4)
        look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 5}
        handles.append(Line2D([], [], label=entry.label, **look))
    first = f"unbroken by PGD, first {found[0].first} images"
    look = {"color": theme.muted, "linestyle": "none", "marker": "x", "markersize": 7}
    return [*handles, Line2D([], [], label=first, **look)]


def _mark(axes: Axes, published: Sequence[PublishedShare], theme: Theme) -> None:
    for known in published:
        axes.plot(
            [known.eps],
            [known.certified],
            marker=_SPECIAL,
            markersize=9,
            color=theme.ink,
            markeredgecolor=theme.paper,
            markeredgewidth=0.7,
            zorder=6,
        )


def _enlarge(axes: Axes) -> None:
    """The part above _ABOVE; no curve leaves the axes."""
    axes.set_ylim(_ABOVE, 1)
    axes.yaxis.set_major_locator(MultipleLocator(0.02))
    for line in axes.lines:
        line.set_clip_on(True)


def _name(axes: Axes, published: Sequence[PublishedShare], theme: Theme) -> None:
    """What each published value is, on its right, from below upwards and apart from one another."""
    for eps in {known.eps for known in published}:
        free = _ABOVE
        own = [known for known in published if known.eps == eps]
        for known in sorted(own, key=lambda known: known.certified):
            height = max(known.certified, free)
            free = height + _GAP
            label = axes.annotate(
                f"{known.name} {percent(known.certified)}",
                (known.eps, known.certified),
                xytext=(known.eps + _BESIDE, height),
                arrowprops={"arrowstyle": "-", "color": theme.muted, "linewidth": 0.7},
                color=theme.ink,
                fontsize=SMALL,
                verticalalignment="center",
                zorder=7,
            )
            label.set_path_effects([withStroke(linewidth=3, foreground=theme.paper)])
