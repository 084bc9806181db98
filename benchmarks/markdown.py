"""Numbers and tables as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def ms(value: float) -> str:
    """Seconds as milliseconds: "2.91", "0.083", "1240"."""
    return number(1e3 * value)


def seconds(value: float) -> str:
    """As "0.31 s"."""
    return f"{number(value)} s"


def times(value: float) -> str:
    """A ratio: "5.2 x"."""
    return f"{value:.2f} x" if value < 10 else f"{value:.1f} x"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def count(value: int) -> str:
    """As "10 000"."""
    return f"{value:,}".replace(",", " ")


def bytes_text(value: int) -> str:
    """As "12.3 MB"."""
    return f"{number(value / 1e6)} MB"
