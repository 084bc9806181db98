"""The pictures: shares against the radius, and cost against tightness at one radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter, StrMethodFormatter

from equicert.experiments.drawing import draw_band, share_axes, with_palette
from equicert.experiments.outcomes import Spread
from equicert.experiments.verification.definition import AUTO, METHODS
from equicert.experiments.verification.measurements import Measured, Row, spread
from equicert.experiments.verification.tables import CALLED, time_of
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png
from equicert.report import percent


@dataclass(frozen=True)
class _Curve:
    """What is drawn, and how: legible without colour, too."""

    label: str
    value: Callable[[Row], float]
    colour: str
    dash: str
    marker: str


def _curves(theme: Theme) -> list[_Curve]:
    looks = {
        "lipschitz": (theme.lipschitz, ":", "D"),
        "interval": (theme.interval, "-.", "s"),
        "dual": (theme.fgsm, "--", "^"),
        "tightening": (theme.muted, "-", "v"),
        "complete": (theme.ink, "-", "o"),
    }
    found = [_Curve(CALLED[n], lambda row, n=n: row.certified[n], *looks[n]) for n in METHODS]
    return [
        *found,
        _Curve("not falsified", lambda row: row.open, theme.pgd, "--", ""),
        _Curve("unbroken by PGD", lambda row: row.unbroken, theme.pgd, ":", "X"),
    ]


def shares_picture(
    models: Sequence[Measured], subtitles: tuple[str, str], units: str, *, theme: Theme = LIGHT
) -> bytes:
    """PNG bytes, a function of the numbers alone: means over seeds, from least to greatest shaded.

    On the left all shares; on the right how much the later methods certify beyond (14). Between
    complete and what is not falsified lies what no method decided in time.

    Args:
        models: what was measured.
        subtitles: what the numbers are of, and the limits.
        units: of the radius, in words.
        theme: colours.
    """
    eps = [row.eps for row in models[0].rows]
    curves = _curves(theme)
    with rc_context(style(theme)):
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        for curve in curves:
            draw_band(left, eps, _by_radius(models, curve.value), *_look(curve))
        for curve in curves[2:-1]:
            draw_band(right, eps, _by_radius(models, _beyond(curve.value)), *_look(curve))
        _band(left, eps, models, lambda value: value, theme)
        _band(right, eps, models, _beyond, theme)
        share_axes(left, eps[-1], units)
        _gain_axes(right, eps[-1])
        for axes in (left, right):
            axes.set_xticks(eps[::2])
        figure.legend(
            handles=_legend(curves, theme), loc="outside lower center", ncols=4, fontsize=SMALL
        )
        put_title(left, "Certified by each method, and attacked", subtitles[0], theme)
        put_title(right, "Gained over the interval bound (14)", subtitles[1], theme)
        return with_palette(to_png(figure))


def _look(curve: _Curve) -> tuple[str, str, str]:
    return curve.colour, curve.dash, curve.marker


def _beyond(value: Callable[[Row], float]) -> Callable[[Row], float]:
    return lambda row: value(row) - row.certified["interval"]


def _by_radius(models: Sequence[Measured], value: Callable[[Row], float]) -> list[Spread]:
    return [spread(models, lambda m, k=k: value(m.rows[k])) for k in range(len(models[0].rows))]


def _band(
    axes: Axes,
    eps: Sequence[float],
    models: Sequence[Measured],
    of: Callable[[Callable[[Row], float]], Callable[[Row], float]],
    theme: Theme,
) -> None:
    """From complete to not falsified."""
    lower = _by_radius(models, of(lambda row: row.certified[METHODS[-1]]))
    upper = _by_radius(models, of(lambda row: row.open))
    axes.fill_between(
        eps,
        [s.mean for s in lower],
        [s.mean for s in upper],
        facecolor=theme.grid,
        edgecolor=theme.muted,
        hatch="////",
        linewidth=0,
    )


def _gain_axes(axes: Axes, largest: float) -> None:
    axes.set(xlim=(0, largest))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("radius ε")
    axes.set_ylabel("more test images")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def _legend(curves: Sequence[_Curve], theme: Theme) -> list[Artist]:
    handles: list[Artist] = []
    for curve in curves:
        line = Line2D([], [], color=curve.colour, marker=curve.marker, markersize=5)
        line.set(label=curve.label, linestyle=curve.dash)
        handles.append(line)
    undecided = Patch(facecolor=theme.grid, edgecolor=theme.muted, hatch="////")
    undecided.set_label("undecided in time")
    return [*handles, undecided]


def cost_picture(
    models: Sequence[Measured], eps: float, subtitles: tuple[str, str], *, theme: Theme = LIGHT
) -> bytes:
    """PNG bytes: mean time a sample of each method alone against the share that it certifies.

    To the right of the dashed line lies what is falsified: no proof can get there. What certifies
    nothing is in the legend only.

    Args:
        models: what was measured.
        eps: the radius of the costs.
        subtitles: what the numbers are of, and the limits.
        theme: colours.
    """
    at = next(k for k, row in enumerate(models[0].rows) if row.eps == eps)
    limit = spread(models, lambda m: m.rows[at].open).mean
    points = [_point(models, name, theme) for name in (*METHODS, AUTO)]
    with rc_context(style(theme)):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.subplots()
        shown = [point for point in points if point.share > 0]
        _cost_axes(axes, eps, shown, limit, theme)
        for point in shown:
            axes.plot([point.share], [point.seconds], **point.look(theme))
        handles = [
            Line2D(
                [],
                [],
                label=f"{point.label}: {percent(point.share)}, {time_of(point.seconds)}",
                **point.look(theme),
            )
            for point in points
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL)
        put_title(axes, f"Cost against tightness at ε = {eps:g}", ", ".join(subtitles), theme)
        return with_palette(to_png(figure))


@dataclass(frozen=True)
class _Point:
    label: str
    share: float
    seconds: float
    colour: str
    marker: str

    def look(self, theme: Theme) -> dict[str, Any]:
        """Of its marker."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": 12 if self.marker == "*" else 9,
            "markeredgecolor": theme.paper,
            "linestyle": "none",
            "zorder": 4,
        }


def _point(models: Sequence[Measured], name: str, theme: Theme) -> _Point:
    """A method alone."""
    looks = {curve.label: (curve.colour, curve.marker) for curve in _curves(theme)}
    return _Point(
        CALLED[name],
        spread(models, lambda m: m.cost(name).certified).mean,
        spread(models, lambda m: m.cost(name).mean).mean,
        *looks.get(CALLED[name], (theme.pgd, "*")),
    )


def _cost_axes(
    axes: Axes, eps: float, points: Sequence[_Point], limit: float, theme: Theme
) -> None:
    shares = [point.share for point in points] or [limit]
    times = [point.seconds for point in points] or [1.0]
    room = max(limit - min(shares), 0.01)
    axes.set_yscale("log")
    axes.set_ylim(min(times) / 2, max(times) * 2)
    axes.set_xlim(min(shares) - 0.1 * room, limit + 0.2 * room)
    axes.set_xlabel(f"share certified at ε = {eps:g}")
    axes.set_ylabel("mean time a sample")
    axes.axvline(limit, color=theme.muted, linestyle="--", linewidth=1.2, zorder=1)
    axes.annotate(
        f"{percent(limit)}\nnot falsified",
        (limit, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5, -4),
        textcoords="offset points",
        verticalalignment="top",
        fontsize=SMALL,
        color=theme.muted,
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_of(value)))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
