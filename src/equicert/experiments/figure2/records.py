"""All numbers of Figure 2 as results.json holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from equicert.data import DataSet
from equicert.experiments.figure2.definition import MODELS, Figure2
from equicert.experiments.figure2.measurements import Measured, spread
from equicert.experiments.provenance import asked, described, surroundings
from equicert.experiments.published import FIGURE2, FIGURE2_EPS, FIGURE2_MACHINE, J22
from equicert.experiments.reports import Request


def record(
    study: Figure2,
    data: DataSet,
    models: Sequence[Measured],
    request: Request,
) -> dict[str, Any]:
    """Every number per seed and over seeds, and what they depend on. Times are in seconds."""
    return {
        **asked("figure2", request),
        "data": described(data, models[0].samples),
        "settings": {
            "training": {name: study.training(name, 0).to_mapping() for name in MODELS},
            "seeds": list(range(study.seeds)),
            "radii": list(study.radii),
            "eps": study.eps,
            "attacked_elsewhere": models[0].main.first,
            "pgd": asdict(study.pgd),
        },
        "certified_yet_broken": sum(len(measured.contradictions) for measured in models),
        "over_seeds": {name: _over_seeds(study, models, name) for name in MODELS},
        "models": [asdict(measured) for measured in models],
        "published": {
            "source": J22,
            "eps": FIGURE2_EPS,
            "machine": FIGURE2_MACHINE,
            "models": {name: asdict(values) for name, values in FIGURE2.items()},
        },
        **surroundings(study.config.threads),
    }


def _over_seeds(study: Figure2, models: Sequence[Measured], name: str) -> dict[str, Any]:
    """Mean, sample standard deviation, least and greatest value of each number of a model."""

    def over(value: Callable[[Measured], float]) -> dict[str, Any]:
        return asdict(spread(models, name, value))

    rows = []
    for k, eps in enumerate(study.radii):
        row: dict[str, Any] = {"eps": eps}
        row["certified"] = over(lambda m, k=k: m.rows[k].certified)
        row["unbroken"] = over(lambda m, k=k: m.rows[k].unbroken)
        row["certified_first"] = over(lambda m, k=k: m.rows[k].certified_first)
        row["unbroken_first"] = over(lambda m, k=k: m.rows[k].unbroken_first)
        rows.append(row)
    return {
        "clean": over(lambda m: m.clean),
        "certified": over(lambda m: m.main.certified),
        "certified_unclipped": over(lambda m: m.certified_unclipped),
        "unbroken": over(lambda m: m.main.unbroken),
        "epoch_seconds": over(lambda m: m.epoch_seconds),
        "certify_seconds": over(lambda m: m.certify_seconds),
        "attack_seconds": over(lambda m: m.attack_seconds),
        "rows": rows,
    }
