"""The numbers of the demo, as results.json holds them."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from typing import Any

from equicert.cli.demo.replacement import MAKER
from equicert.cli.demo.study import TRAIN, Findings, standings
from equicert.cli.options import DemoOptions
from equicert.runs import versions
from equicert.training import MODEL


def results(found: Findings, options: DemoOptions, created: str) -> dict[str, Any]:
    """All numbers of the demo as JSON holds them; the list of files is added by the caller."""
    plan = found.plan
    return {
        "made_by": MAKER,
        "created": created,
        "command": command_line(found, options),
        "quick": found.plan.quick,
        "seed": plan.config.seed,
        "data": {
            "name": found.data.name,
            "digest": found.data.digest,
            "training_samples": len(found.data.x_train),
            "samples": len(found.samples.x),
            "domain": found.samples.domain,
        },
        "model": {"file": f"{TRAIN}/{MODEL}", "digest": found.network.digest},
        "settings": {
            "training": plan.config.to_mapping(),
            "eps": plan.eps,
            "fgsm": {"steps": 1},
            "pgd": dataclasses.asdict(plan.pgd),
        },
        "clean_accuracy": found.clean,
        "accuracies": [dataclasses.asdict(row) for row in found.rows],
        "standings": dict(Counter(standings(found))),
        "median_radius": {name: median_radius(found, name) for name in found.reached},
        "certified_boxes_attacked": found.attacked,
        "inspection": found.inspection.to_mapping(),
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
        "versions": versions(),
    }


def command_line(found: Findings, options: DemoOptions) -> str:
    """What to type to get the same demo again."""
    command = f"equicert demo --out {shlex.quote(options.out)} --seed {options.seed}"
    command += "" if options.threads is None else f" --threads {options.threads}"
    return command + (" --quick" if found.plan.quick else "")


def median_radius(found: Findings, name: str) -> float:
    """The median over all samples of the largest certified radius, 0 where there is none."""
    radii = sorted(line["radius"] or 0.0 for line in found.reached[name])
    middle = len(radii) // 2
    return radii[middle] if len(radii) % 2 else (radii[middle - 1] + radii[middle]) / 2
