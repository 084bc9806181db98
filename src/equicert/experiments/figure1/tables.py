"""What Figure 1 found, beside what is published: rows of text, and the page results.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from equicert.experiments.figure1.definition import (
    BY_FGSM,
    BY_PGD,
    INTERVAL,
    MON,
    PRINTED,
    SHARP,
    TABLE,
    Figure1,
    name_of_lambda,
)
from equicert.experiments.figure1.statements import FORMS, Statement, seconds
from equicert.experiments.outcomes import Outcome, Spread, spread
from equicert.experiments.pages import (
    again,
    counted,
    grouped,
    markdown,
    quick_note,
    seeds_of,
    shares,
    times_sentence,
    verdict_sentence,
)
from equicert.experiments.published import FIGURE1, FIGURE2_MACHINE, FIGURE2_SAMPLES, J22

CERTIFIED: Final = ("model", "clean", "certified by", *(f"eps = {eps:g}" for eps in TABLE))
MON_FORMS: Final = {PRINTED: "l2 bound as printed", SHARP: "l2 bound, sharpened"}
_TIMES: Final = ("what", "published", "measured")
_ATTACKED: Final = (
    "eps", *(FORMS[name] for name in FORMS), "(14), images attacked", "PGD", "FGSM"
)  # fmt: skip
_FORMS_EXPLAINED: Final = (
    "Certificates. **(13) as printed**: margin(x) - 2 Lip eps, Lip by Theorem 6.1, which has the"
    " factor eta_max/eta_min: what the paper's figure is made by. **(13) derived, per margin**: a"
    " radius about x, too, with `|| |C_i - C_j| (I - M)^-1 |U| ||_inf` for each margin, a bound"
    " that is not in the paper. **(14)**: the interval method. MON's **l2 bound as printed**:"
    " margin(x) - sqrt(2) Lip_2 sqrt(inputs) eps, `Lip_2 = ||C||_2 ||U||_2 / m` [P21];"
    " **sharpened**: per margin, by an ellipsoid that holds the state over the clipped box, which"
    " is not in the literature. All are rounded outwards. The networks are the same for all"
    " certificates; those of a lambda were trained on Theorem 6.1's bound."
)


def certified_rows(study: Figure1, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows under CERTIFIED."""
    rows = []
    for variant in study.variants():
        clean = shares(spread(found, variant.name, lambda o: o.clean))
        for name, form in (MON_FORMS if variant.name == MON else FORMS).items():
            cells = [shares(_at(found, variant.name, name, eps)) for eps in TABLE]
            rows.append((variant.name, clean, form, *cells))
    return rows


def conditions(study: Figure1, data: str, found: Sequence[Outcome]) -> str:
    """What the numbers are of: data, samples, seeds, training, attacks, spread."""
    starts = counted(study.pgd.restarts, "random start")
    return (
        f"Data {data}, {grouped(found[0].samples)} test images, {seeds_of(study.seeds)}; training"
        f" for {counted(study.config.epochs, 'epoch')}. Boxes are clipped to the data's domain. PGD"
        f" takes {study.pgd.steps} steps from {starts}; the first {grouped(found[0].first)} images"
        " are attacked. Accuracies are shares of all these images, mean over seeds ± sample"
        " standard deviation [least, greatest]."
    )


def times(study: Figure1, found: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    """Rows under "what", "published", "measured": epochs, and certifying every sample once."""
    attacked, images = name_of_lambda(study.attacked_lambda), found[0].samples
    remark = "" if images == FIGURE2_SAMPLES else f" for {grouped(FIGURE2_SAMPLES)}"
    published = {
        PRINTED: f"{FIGURE1.lipschitz_seconds:g} s{remark} on {FIGURE2_MACHINE}",
        INTERVAL: f"{FIGURE1.interval_seconds:g} s{remark} on {FIGURE2_MACHINE}",
    }
    rows = [
        (
            f"an epoch of Lipschitz training, {attacked}",
            f"{FIGURE1.epoch_seconds:g} s on {FIGURE2_MACHINE}",
            _epoch(found, attacked),
        ),
        ("an epoch of MON", "", _epoch(found, MON)),
    ]
    for name, form in FORMS.items():
        what = f"certifying {grouped(images)} images by {form}, {attacked}"
        rows.append((what, published.get(name, ""), f"{seconds(found, attacked, name):.3g} s"))
    for name, form in MON_FORMS.items():
        what = f"certifying {grouped(images)} images by the {form}, MON"
        rows.append((what, "", f"{seconds(found, MON, name):.3g} s"))
    return rows


def page(
    study: Figure1,
    data: str,
    found: Sequence[Outcome],
    said: Sequence[Statement],
    record: dict[str, Any],
) -> str:
    """The text of results.md; `record` is what results.json holds."""
    attacked = name_of_lambda(study.attacked_lambda)
    judged = [(s.says, s.numbers, "agrees" if s.agrees else "does not agree") for s in said]
    return "\n".join(
        [
            "# Figure 1 of [J22]: Lipschitz training, certified by radius",
            "",
            *quick_note(record["quick"]),
            conditions(study, data, found),
            "",
            "![Certified accuracy against the radius, by lambda, and attacks](figure1.png)",
            "",
            _FORMS_EXPLAINED,
            "",
            *markdown(CERTIFIED, certified_rows(study, found)),
            "",
            verdict_sentence(found),
            "",
            "## Statements of the paper",
            "",
            "Computed from the means over seeds; an order may be missed by half a point.",
            "",
            *markdown(("statement", "numbers", "verdict"), judged),
            "",
            f"## Certified and attacked, {attacked}",
            "",
            *markdown(_ATTACKED, _attacked_rows(study, found)),
            "",
            "## Times",
            "",
            *markdown(_TIMES, times(study, found)),
            "",
            times_sentence(record["machine"]) + " Certifying is the mean over the radii of the"
            " first table.",
            "",
            *again(record["command"]),
            f"[J22] {J22}.",
            "",
        ]
    )


def _attacked_rows(study: Figure1, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    attacked = name_of_lambda(study.attacked_lambda)
    rows = []
    for eps in study.radii:
        certified = [shares(_at(found, attacked, name, eps)) for name in FORMS]
        first = spread(found, attacked, lambda o, e=eps: o.at(INTERVAL, e).share_first)
        clean = shares(spread(found, attacked, lambda o: o.clean_first))
        unbroken = [clean, clean]
        if eps > 0:
            unbroken = [shares(_at(found, attacked, name, eps)) for name in (BY_PGD, BY_FGSM)]
        rows.append((f"{eps:g}", *certified, shares(first), *unbroken))
    return rows


def _at(found: Sequence[Outcome], variant: str, name: str, eps: float) -> Spread:
    return spread(found, variant, lambda outcome: outcome.at(name, eps).share)


def _epoch(found: Sequence[Outcome], variant: str) -> str:
    return f"{spread(found, variant, lambda o: o.epoch_seconds).mean:.3g} s"
