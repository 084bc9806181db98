"""The picture of all systems: certified accuracy against the radius, one curve each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equicert.experiments.drawing import draw_band, share_axes, with_palette
from equicert.experiments.outcomes import Outcome
from equicert.experiments.systems.definition import Systems, best
from equicert.experiments.systems.tables import certificate
from equicert.figures import LIGHT, SMALL, Theme, put_title, style, to_png

# Ten colours that colour-blind readers can tell apart (M. Petroff, arXiv 2107.02270).
_COLOURS: Final = (
    "#3f90da",
    "#bd1f01",
    "#ffa90e",
    "#832db6",
    "#94a4a2",
    "#a96b59",
    "#e76300",
    "#717581",
    "#b9ac70",
    "#92dadd",
)
_MARKERS: Final = "osD^vP*X<>"
_DASHES: Final = ("-", "--", "-.", ":")


def systems_picture(
    study: Systems,
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
        figure = Figure(figsize=(10.5, 5.2), layout="constrained")
        axes = figure.subplots()
        handles = []
        for k, system in enumerate(study.systems):
            values = [best(found, system, eps)[1] for eps in study.radii]
            colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k % len(_MARKERS)]
            dash = _DASHES[k % len(_DASHES)]
            draw_band(axes, study.radii, values, colour, dash, marker)
            label = f"{system.name}\n   {certificate(study, found, system)}"
            look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 5}
            handles.append(Line2D([], [], label=label, **look))
        share_axes(axes, study.radii[-1], units)
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=SMALL)
        put_title(axes, "Certified by the best certificate of each system", subtitle, theme)
        return with_palette(to_png(figure))
