"""Self-contained pages: one HTML file without scripts that loads nothing and escapes everything.

A page is a list of sections, a section a list of blocks; blocks are values that hold plain text.
In a text, words between backticks become code; nothing else is markup.
"""

from __future__ import annotations

import base64
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias, final

from equicert.runs import write_atomic

Role: TypeAlias = Literal["certified", "undecided", "broken", "misclassified"]


class Block(ABC):
    """A piece of a section."""

    @abstractmethod
    def html(self) -> str:
        """The piece as HTML, its texts escaped."""


@dataclass(frozen=True)
class Section:
    """A titled part of a page."""

    title: str
    blocks: Sequence[Block]

    def html(self) -> str:
        """The section as HTML."""
        body = "\n".join(block.html() for block in self.blocks)
        return f"<section>\n<h2>{inline(self.title)}</h2>\n{body}\n</section>"


@final
@dataclass(frozen=True)
class Paragraph(Block):
    """A paragraph of text."""

    text: str

    def html(self) -> str:
        return f"<p>{inline(self.text)}</p>"


@dataclass(frozen=True)
class Tile:
    """A number with its name, and a remark; the main one stands out."""

    value: str
    name: str
    remark: str
    main: bool = False


@final
@dataclass(frozen=True)
class Tiles(Block):
    """Numbers to be seen first."""

    tiles: Sequence[Tile]

    def html(self) -> str:
        cells = [
            f'<div class="tile{" main" if tile.main else ""}"><span>{inline(tile.name)}</span>'
            f"<b>{inline(tile.value)}</b><small>{inline(tile.remark)}</small></div>"
            for tile in self.tiles
        ]
        return f'<div class="tiles">{"".join(cells)}</div>'


@final
@dataclass(frozen=True)
class Table(Block):
    """A table of texts.

    Args:
        header: names of the columns.
        rows: texts, as many as columns.
        caption: below the table.
        numeric: columns set flush right.
        main: the row that stands out.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    main: int | None = None

    def html(self) -> str:
        head = "".join(self._cell("th", k, text) for k, text in enumerate(self.header))
        body = "\n".join(
            ('<tr class="main">' if index == self.main else "<tr>")
            + "".join(self._cell("td", k, text) for k, text in enumerate(row))
            + "</tr>"
            for index, row in enumerate(self.rows)
        )
        caption = f"<caption>{inline(self.caption)}</caption>" if self.caption else ""
        return (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )

    def _cell(self, tag: str, column: int, text: str) -> str:
        side = ' class="number"' if column in self.numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{side}>{inline(text)}</{tag}>"


@final
@dataclass(frozen=True)
class Picture(Block):
    """A PNG image, embedded, with another for readers who prefer dark pages.

    Args:
        light: bytes of the PNG file.
        dark: the same picture on a dark ground.
        alt: what it shows, for those who do not see it.
        caption: below the image.
    """

    light: bytes
    dark: bytes
    alt: str
    caption: str

    def html(self) -> str:
        return (
            "<figure><picture>"
            f'<source media="(prefers-color-scheme: dark)" srcset="{_data_uri(self.dark)}">'
            f'<img src="{_data_uri(self.light)}" alt="{html.escape(self.alt)}">'
            f"</picture><figcaption>{inline(self.caption)}</figcaption></figure>"
        )


@final
@dataclass(frozen=True)
class Shares(Block):
    """A whole and its parts as one bar: (role, name, fraction); the fractions add up to 1."""

    parts: Sequence[tuple[Role, str, float]]

    def html(self) -> str:
        bar = "".join(
            f'<div class="{role}" style="width: {100 * share:.4f}%"></div>'
            for role, _, share in self.parts
            if share > 0
        )
        key = "".join(
            f'<li><i class="{role}"></i>{inline(name)} {percent(share)}</li>'
            for role, name, share in self.parts
        )
        return f'<div class="bar" aria-hidden="true">{bar}</div>\n<ul class="key">{key}</ul>'


@final
@dataclass(frozen=True)
class Definitions(Block):
    """Terms and what they mean."""

    entries: Sequence[tuple[str, str]]

    def html(self) -> str:
        lines = [f"<dt>{inline(term)}</dt><dd>{inline(text)}</dd>" for term, text in self.entries]
        return "<dl>\n" + "\n".join(lines) + "\n</dl>"


@final
@dataclass(frozen=True)
class Listing(Block):
    """Commands or code, line by line, as they are."""

    text: str

    def html(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


def write_report(
    path: str | Path, title: str, lead: str, sections: Sequence[Section], footer: str = ""
) -> None:
    """Write the page atomically.

    Example:
        >>> section = Section("Result", [Table(["eps", "certified"], [["0.1", "84.0 %"]])])
        >>> write_report("report.html", "Digits", "Trained to be certified.", [section])

    Raises:
        OutputError: the file cannot be written.
    """
    style = files("equicert").joinpath("report.css").read_text("utf-8")
    body = "\n".join(section.html() for section in sections)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{inline(title)}</h1>\n<p class="lead">{inline(lead)}</p></header>\n'
        f"{body}\n<footer><p>{inline(footer)}</p></footer>\n</main>\n</body>\n</html>\n"
    )
    write_atomic(path, page)


def inline(text: str) -> str:
    """Escape a text; what stands between backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def percent(share: float, digits: int = 1) -> str:
    """A fraction as per cent: "84.0 %"."""
    return f"{100 * share:.{digits}f} %"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
