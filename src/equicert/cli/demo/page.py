"""What the page of the demo says."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Final

from equicert.cli.demo.numbers import command_line, median_radius
from equicert.cli.demo.study import TRAIN, Findings, standings
from equicert.cli.options import DemoOptions
from equicert.figures import AccuracyRow
from equicert.report import (
    Block,
    Definitions,
    Listing,
    Paragraph,
    Picture,
    Role,
    Section,
    Shares,
    Table,
    Tile,
    Tiles,
    percent,
)
from equicert.runs import versions
from equicert.schedules import TrainConfig
from equicert.training import MODEL

_NBSP: Final = "\N{NO-BREAK SPACE}"

TITLE: Final = "A robust implicit network, proved"

_COLUMNS: Final = [
    "radius ε",
    "certified by (13)",
    "certified by (14)",
    "unbroken by PGD",
    "unbroken by FGSM",
    "clean",
]

_VERDICTS: Final = {"holds": "yes, proved", "fails": "no, proved", "undecided": "undecided"}
_WORDS: Final = {
    "radius ε, box": "All images whose every pixel differs from the test image by at most ε. Pixels"
    " are numbers in [0, 1] (the grey values 0 to 16, divided by 16), and boxes are clipped to"
    " [0, 1]: what lies outside is no image. Without clipping the boxes are larger, and certifying"
    " is harder.",
    "certified": "A theorem: for exactly the stored weights, in real arithmetic, every point of the"
    " box has one fixed point, and there the label's output is strictly the largest. All rounding"
    " errors are bounded and counted against the claim.",
    "by (14), interval": "The embedded network of Theorem 6.3 encloses the states of the whole box"
    " at once. The enclosure is tested, rounded outwards, and the margins are bounded over it.",
    "by (13), Lipschitz": "A bound on how far the state can move with the input, from the weights"
    " and the radius alone. It is coarser, and training did not aim at it.",
    "broken, unbroken": "An attack found, or did not find, a point of the box that the network"
    " reads wrongly. FGSM takes one step along the gradient's sign, PGD many from a random start."
    " Unbroken proves nothing: another attack may succeed.",
    "undecided": "Neither certified nor broken: the methods used here do not tell.",
    "misclassified": "Wrong already at the test image itself, so there is nothing to prove.",
    "μ, η": "μ is the matrix measure of W for the weighted norm `max_i |z_i| / η_i`. Below 1 it"
    " proves that every input has exactly one fixed point (Theorem 5.1). It is recomputed, rounded"
    " upwards, from the stored weights.",
}


def sections(
    found: Findings, options: DemoOptions, pictures: dict[str, tuple[bytes, bytes]]
) -> list[Section]:
    """The page, from what matters most to what is needed to do it again."""
    return [
        Section("What was found", [_tiles(found), _accuracy(pictures["accuracy"]), *_main(found)]),
        Section("Certified and attacked, by radius", [_table(found), _check(found)]),
        Section("Some of the test images", [_digits(found, pictures["digits"])]),
        Section("What the words mean", [Definitions(list(_WORDS.items()))]),
        Section("The network", _network(found)),
        Section("The training", [_training(pictures["training"]), _settings(found)]),
        Section("Doing it again", _again(found, options)),
    ]


def lead(found: Findings) -> str:
    """What the page is about, in two sentences."""
    return (
        f"An implicit network with {found.network.states} hidden units was trained on"
        f" {len(found.data.x_train)} handwritten digits so that its predictions provably withstand"
        f" every change of the pixels by up to {_at(found)}. Then {len(found.samples.x)}"
        " test images were certified by two methods and attacked by two others."
    )


def footer(created: str) -> str:
    """When and by what."""
    return f"Written by equicert {versions()['equicert']} on {created}."


def _tiles(found: Findings) -> Tiles:
    row = _main_row(found)
    at = f"of the test images at {_at(found)}"
    return Tiles(
        [
            Tile(percent(found.clean), "clean accuracy", "of the test images, unchanged"),
            Tile(percent(row.certified_interval), "certified by (14)", at, main=True),
            Tile(percent(row.certified_lipschitz), "certified by (13)", at),
            Tile(percent(row.unbroken_pgd), "unbroken by PGD", at),
        ]
    )


def _accuracy(picture: tuple[bytes, bytes]) -> Picture:
    return Picture(
        *picture,
        "Accuracy against the radius: clean, unbroken by FGSM and by PGD, certified by (14) and by"
        " (13), from top to bottom",
        "The network's true robust accuracy lies between the blue curve, which is proved, and the"
        " red one: every image that is lost there is known to be read wrongly, unchanged or after"
        " an attack. Between the radii of the table the curves are straight lines.",
    )


def _main(found: Findings) -> list[Block]:
    count = Counter(standings(found))
    total = len(found.samples.x)
    parts: list[tuple[Role, str, float]] = [
        ("certified", "certified", count["certified"] / total),
        ("undecided", "undecided", count["undecided"] / total),
        ("broken", "broken", count["broken"] / total),
        ("misclassified", "misclassified", count["misclassified"] / total),
    ]
    text = f"Each test image at {_at(found)}, by either method and either attack:"
    return [Paragraph(text), Shares(parts)]


def _table(found: Findings) -> Table:
    rows = [
        [
            f"{row.eps:g}",
            percent(row.certified_lipschitz),
            percent(row.certified_interval),
            percent(row.unbroken_pgd),
            percent(row.unbroken_fgsm),
            percent(found.clean),
        ]
        for row in found.rows[1:]
    ]
    main = next(k for k, row in enumerate(found.rows[1:]) if row.eps == found.plan.eps)
    medians = [median_radius(found, f"certify-{name}") for name in ("lipschitz", "interval")]
    return Table(
        _COLUMNS,
        rows,
        "Shares of all test images, misclassified ones included. The largest certified radius of"
        f" each image was sought by bisection, too: its median is {medians[0]:.3f} by (13) and"
        f" {medians[1]:.3f} by (14).",
        frozenset(range(6)),
        main,
    )


def _check(found: Findings) -> Paragraph:
    return Paragraph(
        f"A check of the theorems on themselves: {found.attacked} times an image was attacked in a"
        " box that had been certified, and no attack succeeded. Had one, this page would not exist:"
        " the demo stops with an error."
    )


def _digits(found: Findings, picture: tuple[bytes, bytes]) -> Picture:
    return Picture(
        *picture,
        "Test images in the upper row, the worst images that PGD found in their boxes in the lower",
        "Above, test images and the largest radius to which (14) certifies each. Below, the worst"
        f" image that PGD found within ε = {found.plan.eps:g}, and how the network reads it. Chosen"
        " by rule: largest, median and least radius among the certified; largest radius and least"
        " margin among the undecided; least margin among the broken; the first misclassified.",
    )


def _network(found: Findings) -> list[Block]:
    seen, contraction = found.inspection, found.network.contraction
    n, r, q = seen.shapes
    facts = [
        ["hidden units, inputs, outputs", f"{n}, {r}, {q}"],
        ["activation", f"`{seen.activation}`"],
        ["μ(W), proved upper bound", f"{contraction.mu:.3g}"],
        ["η_max / η_min", f"{float(contraction.eta.max() / contraction.eta.min()):.4g}"],
        *([f"Lipschitz bound `{name}`", f"{value:.4g}"] for name, value in seen.lipschitz.items()),
    ]
    if seen.sampled.sup is not None:
        facts.append(["largest Jacobian sampled, floating point", f"{seen.sampled.sup:.4g}"])
    conditions = [
        [f"`{c.name}` ({c.source})", f"{c.value:.4g}", _VERDICTS[c.verdict]]
        for c in seen.conditions
    ]
    return [
        Paragraph(
            "`z = φ(W z + U x + b)`, `y = C z + c`: the state z is defined by an equation, not by"
            " layers. Numbers are recomputed from the stored weights; Lipschitz bounds are from"
            " sup-norm to sup-norm, rounded upwards."
        ),
        Table(["fact", "value"], facts, numeric=frozenset({1})),
        Table(
            ["condition", "value", "below 1"],
            conditions,
            "Each of them, where it is below 1, is enough for a unique fixed point; one is all that"
            " a certificate needs. Numbers are proved upper bounds where it says yes, proved lower"
            " bounds where it says no, and floating point elsewhere.",
            numeric=frozenset({1}),
        ),
    ]


def _training(picture: tuple[bytes, bytes]) -> Picture:
    return Picture(
        *picture,
        "Losses, test accuracies and solver steps by epoch",
        "The loss (11) weighs the loss at the images against the worst case over their boxes. In"
        " the shaded epochs the radius and that weight κ rise from 0. Steps"
        " are those of the state alone, of the state with the interval bounds, and of the"
        " gradient's adjoint equation.",
    )


def _settings(found: Findings) -> Table:
    config = found.plan.config
    start, end = config.milestone("ramp_start"), config.milestone("ramp_end")
    late = config.milestone("late_epoch")
    rate = f"{config.learning_rate:g}, from epoch {late:g} on {config.learning_rate_late:g}"
    rows = [
        ["loss", f"inclusion functions, (11); κ = {config.kappa:g}, ε = {config.eps:g}"],
        ["rise of κ and ε", f"from epoch {start:g} to {end:g} of {config.epochs}"],
        ["constraint", f"μ(W) ≤ {config.gamma:g} by parametrisation, (12) corrected"],
        ["optimiser", f"Adam, batches of {config.batch_size}, step size {rate}"],
        ["arithmetic, solver", f"`{config.dtype}`, `{config.solver}` to {config.tolerance:g}"],
        ["activation", f"`{config.activation}`"],
        ["seed, threads", f"{config.seed}, {config.threads}"],
    ]
    caption = "Chosen on a part of the training split that was held out, not on the test images."
    return Table(["setting", "value"], rows, "" if found.plan.quick else caption)


def _again(found: Findings, options: DemoOptions) -> list[Block]:
    model = shlex.quote((Path(options.out) / TRAIN / MODEL).as_posix())
    eps, config = found.plan.eps, found.plan.config
    limit = "" if found.plan.limit is None else f" --limit {found.plan.limit}"
    default = TrainConfig().to_mapping()
    changed = [
        f"--{key.replace('_', '-')} {shlex.quote(str(value))}"
        for key, value in config.to_mapping().items()
        if value != default[key]
    ]
    train = ["equicert train --data digits --out runs/digits", *changed]
    steps = found.plan.pgd.steps
    commands = [
        command_line(found, options),
        "",
        "# or step by step",
        " \\\n    ".join(train),
        f"equicert inspect {model}",
        f"equicert certify {model} --data digits --eps {eps:g} --method interval{limit}",
        f"equicert certify {model} --data digits --eps {eps:g} --method lipschitz{limit}",
        f"equicert attack {model} --data digits --eps {eps:g} --attack pgd --steps {steps}{limit}",
    ]
    identity = [["model, SHA-256", f"`{found.network.digest}`"]]
    identity += [["data, SHA-256", f"`{found.data.digest}`"]]
    identity += [[name, value] for name, value in versions().items()]
    times = [[name, f"{value:.1f}"] for name, value in found.seconds.items()]
    times.append(["in all", f"{sum(found.seconds.values()):.1f}"])
    return [
        Listing("\n".join(commands)),
        Paragraph(
            "With the same seed, number of threads, versions and processor the weights are the same"
            " to the last bit. Beside this page lie `results.json`, with every number, and for each"
            " radius a folder with a verdict a line for each test image."
        ),
        Table(["what", "which"], identity),
        Table(
            ["stage", "seconds"],
            times,
            "Times of this run, all radii together.",
            numeric=frozenset({1}),
        ),
    ]


def _at(found: Findings) -> str:
    return f"ε{_NBSP}={_NBSP}{found.plan.eps:g}"


def _main_row(found: Findings) -> AccuracyRow:
    return next(row for row in found.rows if row.eps == found.plan.eps)
