"""What an experiment hands over: its files, and what a terminal shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equicert.experiments.verdicts import Contradiction


@dataclass(frozen=True)
class Request:
    """How an experiment was asked for.

    Attributes:
        command: what to type to get the same numbers again.
        created: when, in words.
        quick: whether it is the short version.
    """

    command: str
    created: str
    quick: bool


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        files: by name, as written beside the folders of the stages.
        title: of the table.
        header: of the table.
        rows: of the table.
        remarks: sentences below it.
        contradictions: attacks that broke what was certified, of which there must be none.
    """

    files: Mapping[str, bytes | str]
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str]
    contradictions: Sequence[Contradiction]
