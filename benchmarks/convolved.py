"""The section of the page on convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.markdown import bytes_text, count, number, seconds, table, times

_TEXTS: Final = {
    "convolution": "convolutions, Picard",
    "average": "convolutions, average iteration",
    "matrix": "the same as matrices, Picard",
    "layers": "layers before an implicit block, Picard",
}


def convolutions_section(found: dict[str, Any]) -> list[str]:
    """The tables of what `measure` returned."""
    settings, step, certification = found["settings"], found["step"], found["certification"]
    return [
        "## Convolutions",
        "",
        _subjects_text(found),
        "",
        (
            f"Loss (11), gradients and Adam for {settings['batch']} samples in float32, solves to"
            f" {settings['tolerance']:g}, as above. *Before* is what the process that made one"
            " such step held before, libraries and weights, *most* what it held at most; MB."
        ),
        "",
        *_table(step, ("forward", "adjoint"), _step_cells),
        "",
        (
            f"Rigorous verdicts by (14) for {settings['samples']} test images in float64, solves to"
            f" {settings['certified_to']:g}, the proof of contraction included. Steps are those of"
            " the slowest sample."
        ),
        "",
        *_table(certification, ("steps", "certified"), _certification_cells),
        "",
        "Over the convolutions by Picard, CPU time and memory beyond what was there before:",
        "",
        *_ratios({"step": step, "verdicts": certification}),
        "",
        (
            f"Medians of {step['convolution']['time']['rounds']} and"
            f" {certification['convolution']['time']['rounds']} rounds. The gradient in a full"
            " matrix is that in every one of its entries, most of which are 0 in the convolution."
        ),
    ]


def _subjects_text(found: dict[str, Any]) -> str:
    settings, states, rates = found["settings"], found["states"], found["rates"]
    took = settings["training_seconds"]
    return (
        f"A network with W a convolution of {settings['channels']} channels with 3 x 3 kernels,"
        f" {count(states['convolution'])} states in all, and U one of stride 2; the same function"
        f" with W and U as full matrices; and explicit convolutions before an implicit block,"
        f" as the preset `convolutional` has them, {count(states['layers'])} states in all. Both"
        f" were trained for {settings['training_steps']} steps of {settings['batch']} samples"
        f" (kappa = {settings['kappa']:g}, eps rising to {settings['eps']:g} meanwhile) on"
        f" the first {count(settings['images'])} training images, in"
        f" {seconds(took['convolution'])} and {seconds(took['layers'])}: weights as training makes"
        " them, by no means what it can reach. They contract at"
        f" {rates['convolution']:.3f} and {rates['layers']:.3f}."
    )


def _table(
    entries: Mapping[str, dict[str, Any]],
    columns: tuple[str, ...],
    cells: Callable[[dict[str, Any]], tuple[str, ...]],
) -> list[str]:
    header = ("", "time", "wall", *columns, "before", "most")
    rows = []
    for name, entry in entries.items():
        timing, memory = entry["time"], entry.get("memory")
        held = ("before_bytes", "most_bytes")
        rows.append(
            (
                _TEXTS[name],
                *(seconds(timing[clock]) for clock in ("cpu", "wall")),
                *cells(entry),
                *(bytes_text(memory[key]) if memory else "" for key in held),
            )
        )
    return table(header, rows)


def _step_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(number(entry["steps"][kind]) for kind in ("forward", "adjoint"))


def _certification_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    return count(entry["slowest"]), count(entry["certified"])


def _ratios(tables: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[str]:
    """Of the others to the first one."""
    header = ("", *(f"{what}, {kind}" for what in tables for kind in ("time", "memory")))
    rows = []
    for name in list(_TEXTS)[1:]:
        cells = [_TEXTS[name]]
        for entries in tables.values():
            one, other = entries["convolution"], entries[name]
            cells.append(times(other["time"]["cpu"] / one["time"]["cpu"]))
            both = "memory" in one and "memory" in other
            cells.append(times(_grown(other) / _grown(one)) if both else "")
        rows.append(tuple(cells))
    return table(header, rows)


def _grown(entry: dict[str, Any]) -> int:
    return entry["memory"]["most_bytes"] - entry["memory"]["before_bytes"]
