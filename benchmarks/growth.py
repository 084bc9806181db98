"""The sections of the page on how cost and memory grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.markdown import bytes_text, count, ms, number, table


def scaling_section(found: dict[str, Any], figures: str) -> list[str]:
    """Tables of what `scaling.measure` returned, and where the figure lies."""
    settings = found["settings"]
    low, high = settings["row_sums"]
    header = ("", "solve", "products", "by average", "step", "products", "forward", "adjoint")
    titles = {"hidden": "n", "batch": "batch", "tolerance": "tolerance"}
    texts = {
        "hidden": f"Against the number of hidden units, batch {settings['batch']}, float32,"
        f" tolerance {settings['tolerance']:g}. The networks are random: W has the contracting"
        f" form with mu <= 0, eta = 1, T uniform with its rows scaled so that |T|1 runs evenly from"
        f" {low:g} to {high:g} (mean {(low + high) / 2:g}), and U as at the start of training.",
        "batch": f"Against the batch, trained network, n = {settings['hidden']}, float32, tolerance"
        f" {settings['tolerance']:g}.",
        "tolerance": f"Against the tolerance, trained network, n = {settings['hidden']}, batch"
        f" {settings['batch']}, float64.",
    }
    lines = [
        "## How cost grows",
        "",
        (
            "A joint solve (states and boxes, weights materialised, no gradients) and a whole"
            " training step by Picard, with the products of each; the joint solve by the average"
            " iteration where measured. Times in ms. Steps are means over samples, Picard /"
            " average."
        ),
        "",
        f"![Time of a joint solve against n, and against the tolerance]({figures}/speed.png)",
    ]
    for name, title in titles.items():
        rows = [_scaling_row(f"{row[name]:g}", row) for row in found[name]]
        lines += ["", texts[name], "", *table((title, *header[1:]), rows)]
    return [
        *lines,
        "",
        (
            "Where the time is far above its products, what is left is the entrywise work of a"
            " step (bounds, activation, stopping), calls, and in training steps the proof of"
            " contraction, which a larger batch or network makes less of."
        ),
    ]


def _scaling_row(value: str, row: dict[str, Any]) -> tuple[str, ...]:
    measured, steps = row["times"], row["steps"]
    names = ("solve", "solve_products", "solve_average", "step", "step_products")
    cells = [ms(measured[name]["cpu"]) if name in measured else "" for name in names]
    pairs = [
        " / ".join(
            number(steps[solver][kind]) for solver in ("picard", "average") if solver in steps
        )
        for kind in ("forward", "adjoint")
    ]
    return (value, *cells, *pairs)


def memory_section(found: dict[str, Any]) -> list[str]:
    """Tables of what `memory.measure` returned."""
    header = ("solver", "tolerance", "forward", "adjoint", "saved", "peak", "unrolled")
    certifying = [
        (f"{e['tolerance']:g}", count(e["slowest_steps"]), bytes_text(e["peak_bytes"]))
        for e in found["certification"]
    ]
    return [
        "## Memory",
        "",
        _memory_text(found),
        "",
        *table(header, _training_rows(found["training"])),
        "",
        (
            "Certifying a batch of 1000 by (14), against the solver's tolerance; the peak is that"
            " of tensors made meanwhile, verdicts and boxes included."
        ),
        "",
        *table(("tolerance", "steps", "peak"), certifying),
        "",
        (
            "The most memory that a whole process held which made such a training step on a random"
            " network, libraries included:"
        ),
        "",
        *table(("solver", "forward", "adjoint", "resident"), _process_rows(found["processes"])),
    ]


def _training_rows(entries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            entry["solver"],
            f"{entry['tolerance']:g}",
            count(round(entry["steps"]["forward_slowest"])),
            count(round(entry["steps"]["adjoint_slowest"])),
            bytes_text(entry["saved_bytes"]),
            bytes_text(entry["peak_bytes"]),
            bytes_text(entry["unrolled_bytes"]),
        )
        for entry in entries
    ]


def _process_rows(entries: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            entry["solver"],
            count(round(entry["steps"]["forward_slowest"])),
            count(round(entry["steps"]["adjoint_slowest"])),
            bytes_text(entry["rss_bytes"]),
        )
        for entry in entries
    ]


def _memory_text(found: dict[str, Any]) -> str:
    settings = found["settings"]
    saved = {entry["saved_bytes"] for entry in found["training"]}
    same = "is the same in every row" if len(saved) == 1 else "differs between rows"
    peaks = sorted(entry["peak_bytes"] for entry in found["training"])
    steps = sorted(entry["steps"]["forward_slowest"] for entry in found["training"])
    return (
        f"A training step on {settings['batch']} samples in {settings['dtype']}, n ="
        f" {settings['hidden']}, with few solver steps and with many (those of the slowest"
        " sample). *Saved* is what autograd keeps for the backward pass, each storage once;"
        " *peak* is the most that tensors made during the step held at once, gradients"
        " included, weights and data not; *unrolled* is what the iterates of the forward"
        f" solve alone would take if they were kept. What is saved {same}; the peaks lie within"
        f" {number(100 * (peaks[-1] / peaks[0] - 1))} % of one another while the steps grow"
        f" {steps[-1] / steps[0]:.0f}-fold."
    )
