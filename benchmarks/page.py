"""docs/performance.md: text and tables, a function of the numbers of speed.json alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any, Final

from benchmarks.bounding import bounding_section
from benchmarks.certificates import certificates_section
from benchmarks.convolved import convolutions_section
from benchmarks.deciding import deciding_section
from benchmarks.growth import memory_section, scaling_section
from benchmarks.lipschitz import lipschitz_section
from benchmarks.markdown import count, ms, number, seconds, table, times
from benchmarks.slow import slow_section
from benchmarks.solves import solves_section

_IDLE: Final = 1.5  # load average; this process makes up 1
_AIMS: Final = {"ratio": 5.0, "step_ms": 3.5, "total_s": 150.0}
_VERDICT_AIMS: Final = {"interval_s": 0.3, "ratio": 2.0, "lipschitz_s": 0.1}
_ELSEWHERE: Final = {"authors_ms": 29.0, "prototype_ms": 7.0}  # one core of another machine
_PUBLISHED: Final = {"interval_s": 11.29, "lipschitz_s": 2.25}  # [J22], P100 GPU


def page(results: dict[str, Any], figures: str) -> str:
    """The text of the page, with the sections that were measured.

    Args:
        results: what speed.json holds.
        figures: where speed.png lies, relative to the page.
    """
    lines = ["# Performance", "", *_conditions(results)]
    sections: dict[str, Callable[[Any], list[str]]] = {
        "step": _step,
        "lipschitz": lipschitz_section,
        "verdicts": _verdicts,
        "certificates": certificates_section,
        "deciding": deciding_section,
        "bounding": bounding_section,
        "solves": solves_section,
        "scaling": lambda found: scaling_section(found, figures),
        "slow": slow_section,
        "memory": memory_section,
        "convolutions": convolutions_section,
    }
    for name, section in sections.items():
        if name in results:
            lines += ["", *section(results[name]), *_busy(results, name)]
    return "\n".join(map(_wrapped, [*lines, "", *_again(results, figures)]))


def _busy(results: dict[str, Any], name: str) -> list[str]:
    """A paragraph where the section is of a later run, or other work had the processor, too."""
    found, cores = results[name], results["machine"]["logical_cores"]
    said = []
    if "run" in found:
        said.append(f"This section is of a later run: `{found['run']['command']}`.")
    if found.get("load", 0.0) > _IDLE:
        said.append(
            f"The machine was shared: a load average of {found['load']:.1f} on {cores} logical"
            " cores when it began. Wall times say little then, and CPU times are longer than alone."
        )
    return ["", " ".join(said)] if said else []


def _wrapped(line: str) -> str:
    """Prose in lines of at most 120 characters; tables, code and images as they are."""
    if line.startswith(("|", " ", "!")):
        return line
    return textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False)


def _conditions(results: dict[str, Any]) -> list[str]:
    machine, software = results["machine"], results["versions"]
    settings = results["settings"]
    return [
        (
            f"Machine: {machine['processor']}, {machine['logical_cores']} logical cores,"
            f" {machine['threads']} thread; Python {software['python']}, torch"
            f" {software['torch']}. Times are CPU times of the process unless they are called wall"
            " times; other load on the machine lengthens both, wall times more. Within one"
            " measurement the contestants take turns (A B C A B C ...); each time is the median"
            " over rounds, each ratio one of medians. *Products* are the matrix products of the"
            " same computation alone, with as many solver steps as the slowest sample of a batch"
            " needs, at the speed of this machine's library: the floor of any implementation by"
            " these products."
        ),
        "",
        (
            f"Data: {settings['data']['name']}.{_trained(settings)} Boxes are clipped to the data's"
            " domain."
        ),
    ]


def _trained(settings: dict[str, Any]) -> str:
    """About the network, if a section needed it."""
    if "hidden" not in settings:
        return ""
    return (
        f" The trained network has n = {settings['hidden']}, is robust at eps = 0.1 by the"
        f" published recipe of [J22] in {settings['epochs']} epochs, which took"
        f" {seconds(settings['training_seconds'])} with the accuracies after each, seed"
        f" {settings['seed']}, and contracts at {settings['contraction_rate']:.3f} (Picard)."
    )


def _step(found: dict[str, Any]) -> list[str]:
    settings, contestants = found["settings"], found["contestants"]
    epochs, picard = found["epochs"], contestants["Picard"]
    speed = picard["products_gflops"] / picard["products"]["cpu"]
    aims = [
        ("average / Picard", f">= {_AIMS['ratio']:g}", times(found["ratio"]["cpu"])),
        ("the step by Picard", f"<= {_AIMS['step_ms']:g} ms", f"{ms(picard['time']['cpu'])} ms"),
        ("steps of the 40 epochs", f"<= {_AIMS['total_s']:g} s", seconds(epochs["total"])),
    ]
    return [
        "## A step of inclusion training",
        "",
        (
            f"Loss (11), gradients and Adam for {settings['batch']} samples at eps ="
            f" {settings['eps']:g} in {settings['dtype']}, weights as trained (the learning rate"
            " is 0, which costs the same). Both solvers stop each sample on an error radius of"
            f" {settings['tolerance']:g}, the adjoint's relative to its cotangent; steps are means"
            " over samples. kappa = 1 solves for boxes only, kappa = 0 for states only."
        ),
        "",
        *_step_table(contestants),
        "",
        *table(("", "aim", "measured"), aims),
        "",
        (
            f"The products run at {speed:.0f} GFLOP/s here. Elsewhere, on one core each, the"
            f" authors' code took {_ELSEWHERE['authors_ms']:g} ms a step and a plain prototype of"
            f" this one {_ELSEWHERE['prototype_ms']:.1f} ms: other machines and networks."
        ),
        "",
        (
            f"An epoch is {count(epochs['steps'])} steps: {seconds(epochs['plain'])} before the"
            f" ramp (kappa = 0), {seconds(epochs['robust'])} after. The 40 epochs are extrapolated"
            " from one step as 10 of the first kind and 30 of the second:"
            f" {seconds(epochs['total'])}, without shuffling and evaluation, and as if every step"
            " were on the trained weights."
        ),
    ]


def _step_table(contestants: dict[str, dict[str, Any]]) -> list[str]:
    header = ("step", "ms", "wall ms", "products, ms", "forward steps", "adjoint steps")
    rows = [
        (
            name if "kappa" in name else f"{name}, kappa = {entry['kappa']:g}",
            ms(entry["time"]["cpu"]),
            ms(entry["time"]["wall"]),
            ms(entry["products"]["cpu"]),
            number(entry["steps"]["forward"]),
            number(entry["steps"]["adjoint"]),
        )
        for name, entry in contestants.items()
    ]
    return table(header, rows)


def _verdicts(found: dict[str, Any]) -> list[str]:
    settings, certified, measured = found["settings"], found["certified"], found["times"]
    names = {
        "interval": "rigorous verdicts by (14)",
        "plain": "the same bounds, nothing rounded or proved",
        "products": "their products alone",
        "lipschitz": "rigorous verdicts by (13): radius about x, derived bound, per margin",
        "zeta": "rigorous verdicts by (13) about each clipped box's own centre",
    }
    rows = [
        (
            text,
            seconds(measured[name]["cpu"]),
            seconds(measured[name]["wall"]),
            count(certified[name]) if name in certified else "",
        )
        for name, text in names.items()
    ]
    apart = abs(certified["interval"] - certified["plain"])
    return [
        "## Rigorous verdicts",
        "",
        (
            f"`certify` for {count(settings['samples'])} test images at eps = {settings['eps']:g},"
            " data and network in memory, the proof of contraction included. The plain evaluation"
            f" takes the same boxes to the same tolerance ({settings['tolerance']:g}) in the same"
            f" float64 and counts positive margins. The numbers certified differ by {apart}."
        ),
        "",
        *table(("", "time", "wall", "certified"), rows),
        "",
        *table(("", "aim", "measured", "published, P100 GPU"), _verdict_aims(found)),
        "",
        (
            "A sample that (14) or the last line does not certify takes a further solve, at the"
            " point itself, which tells misclassified from unknown and which the plain evaluation"
            " does not make: part of the ratio. (13) about x solves there anyway."
            " Published times are of another network of the same size."
        ),
    ]


def _verdict_aims(found: dict[str, Any]) -> list[tuple[str, ...]]:
    measured = found["times"]
    (aim, aim_lip), (old, old_lip) = (
        (known["interval_s"], known["lipschitz_s"]) for known in (_VERDICT_AIMS, _PUBLISHED)
    )
    own, ratio = measured["interval"]["cpu"], found["ratio"]["cpu"]
    return [
        ("by (14)", f"<= {aim:g} s", seconds(own), f"{old:g} s"),
        ("rigorous / plain", f"<= {_VERDICT_AIMS['ratio']:g}", times(ratio), ""),
        (
            "by (13)",
            f"<= {aim_lip:g} s",
            seconds(measured["lipschitz"]["cpu"]),
            f"{old_lip:g} s",
        ),
    ]


def _again(results: dict[str, Any], figures: str) -> list[str]:
    return [
        "## Doing it again",
        "",
        f"    {results['command']}",
        "",
        (
            f"`make bench` does it with the defaults; this run took {results['seconds'] / 60:.1f}"
            " minutes, some of them for training where that was not done before. It"
            " writes this page, the figure, and every number, with wall times and rounds, into"
            f" [speed.json]({figures}/speed.json)."
        ),
        "",
    ]
