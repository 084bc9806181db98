"""The picture of Figure 1: certified curves by lambda above, certified against attacked below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equicert.experiments.drawing import draw_band, share_axes, with_palette
from equicert.experiments.figure1.definition import (
    BY_FGSM,
    BY_PGD,
    INTERVAL,
    MON,
    PER_MARGIN,
    PRINTED,
    SHARP,
    Figure1,
    name_of_lambda,
)
from equicert.experiments.outcomes import Outcome, spread
from equicert.experiments.pages import grouped
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png

# From dark to light by lambda, told apart in grey, too; lambda = 0 and MON by their dashes.
_COLOURS: Final = ("#2b1a5a", "#3f51a3", "#23888e", "#4bb062", "#c8b41d")
_MARKERS: Final = ("o", "s", "D", "^", "v")
_Line = Literal["-", "--", "-.", ":"]
_Look = tuple[str, _Line, str]  # colour, line, marker


def figure1_picture(
    study: Figure1,
    found: Sequence[Outcome],
    subtitle: str,
    units: str,
    *,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG bytes, a function of the numbers alone: means over seeds, from least to greatest shaded.

    Args:
        study: what was run.
        found: what was measured.
        subtitle: what the numbers are of.
        units: of the radius, in words.
        theme: colours.
    """
    with rc_context(style(theme)):
        figure = Figure(figsize=(10, 8.2), layout="constrained")
        left, right, below = _panels(figure)
        looks = _looks(study, theme)
        _certified(left, found, looks, PRINTED, PRINTED)
        _certified(right, found, looks, PER_MARGIN, SHARP)
        largest = study.radii[-1]
        for axes in (left, right):
            share_axes(axes, largest, units)
            axes.set_xlabel("radius ε")
        left.legend(handles=_handles(looks), loc="upper right", fontsize=SMALL)
        put_title(left, "Certified, as printed", "(13) by Theorem 6.1; MON by its l2 bound", theme)
        derived = "(13) derived here, per margin; MON's l2 ball sharpened"
        put_title(right, "The same networks, better bounds", derived, theme)
        _attacked(below, study, found, theme)
        share_axes(below, largest, units)
        attacked = name_of_lambda(study.attacked_lambda).replace("lambda", "λ")
        title = f"Certified and attacked, {attacked}"
        first = found[0].first
        few = "" if first == found[0].samples else f"; attacks: the first {grouped(first)}"
        put_title(below, title, subtitle + few, theme)
        return with_palette(to_png(figure))


def _panels(figure: Figure) -> tuple[Axes, Axes, Axes]:
    grid = figure.add_gridspec(2, 2)
    left, right = (figure.add_subplot(grid[0, k]) for k in range(2))
    return left, right, figure.add_subplot(grid[1, :])


def _looks(study: Figure1, theme: Theme) -> dict[str, _Look]:
    falling = sorted((weight for weight in study.lambdas if weight > 0), reverse=True)
    looks: dict[str, _Look] = {
        name_of_lambda(weight): (
            _COLOURS[k * (len(_COLOURS) - 1) // max(1, len(falling) - 1)],
            "-",
            _MARKERS[k % len(_MARKERS)],
        )
        for k, weight in enumerate(falling)
    }
    if 0.0 in study.lambdas:
        looks[name_of_lambda(0.0)] = (theme.muted, ":", "x")
    return {**looks, MON: (theme.pgd, "--", "")}


def _certified(
    axes: Axes,
    found: Sequence[Outcome],
    looks: dict[str, _Look],
    name: str,
    of_mon: str,
) -> None:
    for variant, look in looks.items():
        _curve(axes, found, variant, of_mon if variant == MON else name, *look)


def _curve(
    axes: Axes,
    found: Sequence[Outcome],
    variant: str,
    name: str,
    colour: str,
    linestyle: _Line,
    marker: str,
    *,
    from_clean: bool = False,
) -> None:
    points = next(o.curves[name] for o in found if o.variant == variant)
    values = [
        spread(found, variant, lambda o, k=k: o.curves[name][k].share) for k in range(len(points))
    ]
    eps = [point.eps for point in points]
    if from_clean:
        eps, values = [0.0, *eps], [spread(found, variant, lambda o: o.clean_first), *values]
    draw_band(axes, eps, values, colour, linestyle, marker)


def _attacked(axes: Axes, study: Figure1, found: Sequence[Outcome], theme: Theme) -> None:
    attacked = name_of_lambda(study.attacked_lambda)
    curves: dict[str, tuple[str, str, _Line, str]] = {
        BY_FGSM: ("unbroken by FGSM", theme.fgsm, ":", "^"),
        BY_PGD: ("unbroken by PGD", theme.pgd, "--", "o"),
        INTERVAL: ("certified, (14)", theme.interval, "-", "s"),
        PER_MARGIN: ("certified, (13) derived, per margin", theme.lipschitz, "-", "D"),
        PRINTED: ("certified, (13) as printed", theme.lipschitz, "-.", "v"),
    }
    for name, (_, colour, linestyle, marker) in curves.items():
        attack = name in (BY_PGD, BY_FGSM)
        _curve(axes, found, attacked, name, colour, linestyle, marker, from_clean=attack)
    handles = [_handle(label, colour, line, mark) for label, colour, line, mark in curves.values()]
    axes.legend(handles=handles, loc="upper right", fontsize=SMALL)


def _handles(looks: dict[str, _Look]) -> list[Line2D]:
    return [_handle(name.replace("lambda", "λ"), *look) for name, look in looks.items()]


def _handle(label: str, colour: str, linestyle: _Line, marker: str) -> Line2D:
    return Line2D(
        [], [], color=colour, linestyle=linestyle, marker=marker, markersize=4.5, label=label
    )
