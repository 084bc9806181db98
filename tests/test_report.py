"""A page shows exactly the texts it was given and loads nothing; a figure is a function of its
numbers.
"""

import base64
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equicert.errors import OutputError
from equicert.figures import (
    DARK,
    LIGHT,
    AccuracyRow,
    Shown,
    Theme,
    accuracy_figure,
    gallery_figure,
    training_figure,
)
from equicert.report import (
    Block,
    Definitions,
    Listing,
    Paragraph,
    Picture,
    Section,
    Shares,
    Table,
    Tile,
    Tiles,
    percent,
    write_report,
)

VOID = {"meta", "img", "source"}
LOADING = {"src", "srcset", "href", "data", "action", "poster", "background", "style"}
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'single' </td></section> &lt;"


class Page(HTMLParser):
    """Reads a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "script" not in (tag, *self.open)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def loaded(self) -> list[str]:
        """Return what the page would fetch: anything but data, and styles that name an address."""
        found = [
            str(value)
            for _, attributes in self.tags
            for key, value in attributes.items()
            if (key in LOADING and key != "style" and not str(value).startswith("data:image/png;"))
            or (key == "style" and "url" in str(value))
            or key.startswith("on")
        ]
        return found + [tag for tag, _ in self.tags if tag in ("link", "iframe", "script", "base")]


def blocks(text: str) -> dict[str, Block]:
    """One block of each kind, with this text wherever it takes one."""
    return {
        "paragraph": Paragraph(text),
        "tiles": Tiles([Tile(text, text, text), Tile(text, text, text, main=True)]),
        "table": Table([text, text], [[text, text]], text, frozenset({1}), 0),
        "picture": Picture(b"light", b"dark", text, text),
        "shares": Shares([("certified", text, 0.25), ("broken", text, 0.75)]),
        "definitions": Definitions([(text, text)]),
        "listing": Listing(text),
    }


@pytest.mark.parametrize("kind", blocks(""))
@given(text=st.text(min_size=1).filter(lambda text: "`" not in text))
def test_block_shows_its_text_and_nothing_else_of_it(kind: str, text: str) -> None:
    mark = "\ue000"
    marked, page = Page(blocks(mark)[kind].html()), Page(blocks(text)[kind].html())
    assert mark in marked.text
    assert page.text == marked.text.replace(mark, text)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in marked.tags]


@pytest.mark.parametrize("kind", blocks(""))
def test_hostile_text_stays_text(kind: str) -> None:
    page = Page(blocks(HOSTILE)[kind].html())
    assert HOSTILE in page.text
    assert page.loaded() == []
    if kind == "picture":
        assert [tag["alt"] for name, tag in page.tags if name == "img"] == [HOSTILE]


def test_backticks_become_code_and_are_escaped() -> None:
    page = Page(Paragraph("a `b < c` d").html())
    assert [tag for tag, _ in page.tags] == ["p", "code"]
    assert page.text == "a b < c d"
    assert Page(Listing("keep `these`").html()).text == "keep `these`"


def test_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    sections = [Section(HOSTILE, list(blocks(HOSTILE).values()))] * 2
    write_report(path, HOSTILE, HOSTILE, sections, HOSTILE)
    text = path.read_text("utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert [tag for tag, _ in page.tags][:2] == ["html", "head"]
    assert sum(tag == "section" for tag, _ in page.tags) == 2
    assert page.loaded() == []
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "prefers-color-scheme: dark" in style[1]
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "http" not in text


def test_page_reader_sees_what_would_be_loaded() -> None:
    assert Page('<img src="https://x.org/a.png">').loaded() == ["https://x.org/a.png"]
    assert Page('<p style="background: url(a.png)"></p>').loaded() != []
    assert Page('<p onclick="f()"></p>').loaded() == ["f()"]
    with pytest.raises(AssertionError):
        Page("<p><b></p></b>")


def test_picture_holds_the_very_bytes() -> None:
    light, dark = bytes(range(256)), b"\x89PNG"
    tags = dict(Page(Picture(light, dark, "alt", "caption").html()).tags)
    for uri, content in ((tags["img"]["src"], light), (tags["source"]["srcset"], dark)):
        assert uri is not None
        assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == content
    assert tags["source"]["media"] == "(prefers-color-scheme: dark)"


def test_table_marks_the_main_row_and_the_numbers() -> None:
    tags = Page(Table(["a", "b"], [["1", "2"], ["3", "4"]], "", frozenset({1}), 1).html()).tags
    rows = [attributes.get("class") for tag, attributes in tags if tag == "tr"]
    assert rows == [None, None, "main"]
    cells = [attributes.get("class") for tag, attributes in tags if tag in ("td", "th")]
    assert cells == [None, "number"] * 3
    assert "caption" not in [tag for tag, _ in tags]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4).filter(lambda parts: sum(parts) > 0.01))
def test_shares_fill_the_bar(parts: list[float]) -> None:
    whole = sum(parts)
    page = Page(Shares([("broken", "part", part / whole) for part in parts]).html())
    styles = [str(attributes["style"]) for _, attributes in page.tags if "style" in attributes]
    widths = [float(style.removeprefix("width: ").removesuffix("%")) for style in styles]
    assert len(widths) == sum(part > 0 for part in parts)
    assert sum(widths) == pytest.approx(100, abs=1e-3)


def test_unwritable_page_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        write_report(tmp_path / "missing" / "report.html", "t", "l", [])


def test_percent_keeps_one_digit() -> None:
    assert [percent(share) for share in (0.0, 0.8396, 1.0)] == ["0.0 %", "84.0 %", "100.0 %"]


ROWS = [AccuracyRow(0.0, 0.9, 0.9, 0.9, 0.9), AccuracyRow(0.1, 0.1, 0.7, 0.8, 0.85)]
METRICS = [
    {"epoch": 1, "nominal_loss": 1.5, "robust_loss": None, "clean_accuracy": 0.5},
    {"epoch": 2, "nominal_loss": 0.5, "robust_loss": 0.7, "clean_accuracy": 0.9},
]


def draw(kind: str, theme: Theme) -> bytes:
    if kind == "accuracy":
        return accuracy_figure(ROWS, 0.9, 0.1, "a subtitle", theme)
    if kind == "training":
        return training_figure(METRICS, (0.5, 1.0), theme)
    image = np.linspace(0, 1, 64).reshape(8, 8)
    kinds = ("certified", "undecided", "broken", "misclassified")
    shown = [Shown(image, 1 - image, "label 1", f"{kind}\nso", "below", kind) for kind in kinds]
    return gallery_figure(shown, theme)


@pytest.mark.parametrize("kind", ["accuracy", "training", "gallery"])
def test_figure_is_a_function_of_its_numbers(kind: str) -> None:
    png = draw(kind, LIGHT)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert draw(kind, LIGHT) == png
    assert draw(kind, DARK) != png
    for chunk in (b"tEXt", b"tIME", b"iTXt"):  # no date, no version of the software
        assert chunk not in png


def test_figure_ignores_and_keeps_the_settings_of_the_user() -> None:
    png = draw("accuracy", LIGHT)
    with mpl.rc_context({"axes.facecolor": "red", "lines.linewidth": 9.0, "savefig.dpi": 20}):
        before = dict(mpl.rcParams)
        assert draw("accuracy", LIGHT) == png
        assert dict(mpl.rcParams) == before


def test_figures_leave_pyplot_alone() -> None:
    code = (
        "import sys; from equicert.figures import LIGHT, training_figure;"
        "training_figure([{'epoch': 1}], (0, 1), LIGHT);"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_of_one_epoch_without_certified_accuracy_is_drawn() -> None:
    line = {"epoch": 1, "nominal_loss": math.pi, "certified_accuracy": None, "clean_accuracy": 1.0}
    assert training_figure([line], (0.0, 0.0), LIGHT).startswith(b"\x89PNG")
