"""The figures of the demo, and which test images its gallery shows."""

from __future__ import annotations

import math
from typing import Final

import torch

from equicert.attacks import AttackResult
from equicert.cli.demo.study import Findings, standings
from equicert.figures import DARK, LIGHT, Shown, accuracy_figure, gallery_figure, training_figure

_SIDE: Final = 8  # pixels


def draw_figures(found: Findings) -> dict[str, tuple[bytes, bytes]]:
    """PNG files by name, on a light and on a dark ground."""
    plan = found.plan
    subtitle = (
        f"handwritten digits, {len(found.samples.x)} test images of 8 by 8 pixels, boxes clipped"
        " to [0, 1]"
    )
    ramp = (plan.config.milestone("ramp_start"), plan.config.milestone("ramp_end"))
    shown = _gallery(found)
    drawn = {}
    for theme in (LIGHT, DARK):
        drawn[theme] = (
            accuracy_figure(found.rows, found.clean, plan.eps, subtitle, theme),
            training_figure(found.metrics, ramp, theme),
            gallery_figure(shown, theme),
        )
    names = ("accuracy", "training", "digits")
    return dict(zip(names, zip(drawn[LIGHT], drawn[DARK], strict=True), strict=True))


def _gallery(found: Findings) -> list[Shown]:
    """The chosen samples, attacked once more to see the worst point itself."""
    chosen = _choose(found)
    eps, samples = found.plan.eps, found.samples
    rows = torch.tensor(chosen)
    x, y = samples.x[rows], samples.y[rows]
    attacked = found.plan.pgd.run(found.network, x, y, eps, samples.domain)
    status = standings(found)
    return [_shown(found, k, index, status[index], attacked) for k, index in enumerate(chosen)]


def _shown(found: Findings, k: int, index: int, status: str, attacked: AttackResult) -> Shown:
    label = int(found.samples.y[index])
    now = int(attacked.adversarial_predicted[k])
    radius = _proved(found, index)
    below = f"still {now}" if now == label else f"read as {now}"
    return Shown(
        found.samples.x[index].numpy().reshape(_SIDE, _SIDE),
        attacked.adversarial[k].numpy().reshape(_SIDE, _SIDE),
        f"label {label}",
        f"{status}\n"
        + ("not certified" if radius is None else f"proved to {_rounded_down(radius)}"),
        "not attacked" if status == "misclassified" else below,
        status,
    )


def _proved(found: Findings, index: int) -> float | None:
    """The largest radius to which (14) certifies the sample, found by bisection or in the table."""
    name = "certify-interval"
    lines = {eps: found.verdicts[name, eps][index] for eps in found.plan.radii}
    proved = [eps for eps, line in lines.items() if line["status"] == "certified"]
    radius = found.reached[name][index]["radius"]
    if radius is not None:
        proved.append(radius)
    return max(proved, default=None)


def _rounded_down(radius: float) -> str:
    return f"{math.floor(1000 * radius) / 1000:.3f}"


def _choose(found: Findings) -> list[int]:
    """Samples of every standing, by the rule that the caption states."""
    radius = [_proved(found, index) or 0.0 for index in range(len(found.samples.x))]
    margin = [line["margin"] for line in found.verdicts["attack-pgd", found.plan.eps]]
    groups: dict[str, list[int]] = {}
    for index, status in enumerate(standings(found)):
        groups.setdefault(status, []).append(index)
    certified = sorted(groups.get("certified", []), key=lambda k: (-radius[k], k))
    chosen = [certified[k] for k in (0, len(certified) // 2, -1)] if certified else []
    undecided = groups.get("undecided", [])
    if undecided:
        chosen.append(max(undecided, key=lambda k: (radius[k], -k)))
        chosen.append(min(undecided, key=lambda k: (margin[k], k)))
    if broken := groups.get("broken", []):
        chosen.append(min(broken, key=lambda k: (margin[k], k)))
    chosen += groups.get("misclassified", [])[:1]
    return list(dict.fromkeys(chosen))
