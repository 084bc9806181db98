"""The demo tells the truth: its numbers are those of the verdict files, what is certified was not
broken, and nothing but an earlier demo is ever replaced.
"""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from equicert.attacks import PGD
from equicert.certification import certify
from equicert.cli.demo import run_demo, study
from equicert.cli.demo.replacement import LIST, MAKER, earlier, replacing
from equicert.cli.options import DemoOptions
from equicert.data import load_data
from equicert.errors import ConfigError, OutputError
from equicert.experiments.verdicts import ContradictionError
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.schedules import TrainConfig

COLUMNS = {
    "certified_lipschitz": ("certify-lipschitz", "certified"),
    "certified_interval": ("certify-interval", "certified"),
    "unbroken_pgd": ("attack-pgd", "unbroken"),
    "unbroken_fgsm": ("attack-fgsm", "unbroken"),
}
TINY = study.Plan(
    TrainConfig(hidden=8, epochs=4, learning_rate=0.02, evaluate_samples=20, threads=1),
    (0.02, 0.1),
    0.1,
    40,
    PGD(3),
    quick=True,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a quick demo, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        run_demo(DemoOptions(str(out)), quick=True, quiet=False)
    return out, printed.getvalue()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo too small to be of use, and quick."""
    monkeypatch.setattr(study.Plan, "of", lambda *_, **__: TINY)


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / LIST).read_text("utf-8"))


def verdicts(out: Path, name: str, eps: float) -> list[dict[str, Any]]:
    return read_lines(out / name / f"eps-{eps:g}" / "verdicts.jsonl")


def make_earlier(out: Path) -> None:
    """Put something there that is taken for an earlier demo."""
    (out / "train").mkdir(parents=True)
    (out / "train" / "weights").write_text("old")
    found = {"made_by": MAKER, "created": "long ago", "files": [LIST, "train/weights"]}
    (out / LIST).write_text(json.dumps(found))


def tree(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def test_numbers_are_those_of_the_verdict_files(demo: tuple[Path, str]) -> None:
    out, _ = demo
    found = results(out)
    rows = found["accuracies"]
    assert [row["eps"] for row in rows] == [0.0, 0.02, 0.05, 0.1]
    for row in rows[1:]:
        for column, (name, status) in COLUMNS.items():
            lines = verdicts(out, name, row["eps"])
            assert len(lines) == found["data"]["samples"] == 120
            share = sum(line["status"] == status for line in lines) / len(lines)
            assert row[column] == share
            summary = json.loads((out / name / f"eps-{row['eps']:g}/summary.json").read_text())
            assert share in (summary.get("certified_accuracy"), summary.get("robust_accuracy"))
            assert summary["model"] == found["model"]["digest"]
            clean = sum(line["predicted"] == line["label"] for line in lines) / len(lines)
            assert clean == found["clean_accuracy"]
    assert sum(found["standings"].values()) == 120
    main = rows[-1]
    undecided = found["standings"].get("undecided", 0) / 120
    assert undecided <= main["unbroken_pgd"] - main["certified_interval"] + 1e-12


def test_certified_never_exceeds_unbroken(demo: tuple[Path, str]) -> None:
    out, _ = demo
    for row in results(out)["accuracies"]:
        proved = max(row["certified_lipschitz"], row["certified_interval"])
        assert proved <= min(row["unbroken_pgd"], row["unbroken_fgsm"])
    broken = {
        (eps, line["index"])
        for eps in (0.02, 0.05, 0.1)
        for name in ("attack-pgd", "attack-fgsm")
        for line in verdicts(out, name, eps)
        if line["status"] != "unbroken"
    }
    assert broken
    for name in ("certify-interval", "certify-lipschitz"):
        for line in read_lines(out / name / "radius" / "verdicts.jsonl"):
            if line["radius"] is not None:
                assert not any(
                    index == line["index"] and eps <= line["radius"] for eps, index in broken
                )


def test_quick_demo_shows_something(demo: tuple[Path, str]) -> None:
    out, _ = demo
    found = results(out)
    assert found["clean_accuracy"] > 0.8
    assert found["accuracies"][-1]["certified_interval"] > 0.3
    assert found["accuracies"][1]["certified_lipschitz"] > 0.3
    assert found["certified_boxes_attacked"] > 0


def test_certificates_speak_of_the_model_that_is_left(demo: tuple[Path, str]) -> None:
    out, _ = demo
    found = results(out)
    network = load_model(out / found["model"]["file"])
    assert network.digest == found["model"]["digest"]
    data = load_data("digits")
    x, labels = torch.from_numpy(data.x_test[:120]), torch.from_numpy(data.y_test[:120])
    again = certify(network, x, labels, 0.05, domain=data.domain)
    assert [verdict.status for verdict in again] == [
        line["status"] for line in verdicts(out, "certify-interval", 0.05)
    ]


def test_page_shows_the_table_and_the_figures(demo: tuple[Path, str]) -> None:
    out, printed = demo
    page = (out / "report.html").read_text("utf-8")
    found = results(out)
    for row in found["accuracies"][1:]:
        cells = [f"{row['eps']:g}", *(f"{100 * row[column]:.1f} %" for column in COLUMNS)]
        cells.append(f"{100 * found['clean_accuracy']:.1f} %")
        assert "</td>".join(f'<td class="number">{cell}' for cell in cells) in page
        assert re.search(r".*".join(map(re.escape, cells)), printed)
    for name in ("accuracy", "training", "digits"):
        for kind in ("", "-dark"):
            png = (out / "figures" / f"{name}{kind}.png").read_bytes()
            assert f"base64,{base64.b64encode(png).decode()}" in page
    assert found["model"]["digest"] in page
    assert found["data"]["digest"] in page
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    assert str(out / "report.html") in printed


def test_demo_lists_its_files_and_leaves_nothing_else(demo: tuple[Path, str]) -> None:
    out, _ = demo
    assert results(out)["files"] == sorted(tree(out))
    assert [path.name for path in out.parent.iterdir()] == ["demo"]


@pytest.mark.usefixtures("tiny")
def test_second_demo_is_the_same_and_says_what_it_replaces_unless_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    run_demo(DemoOptions(str(out)), quick=True, quiet=False)
    printed = capsys.readouterr().out
    assert f"the demo of long ago in {out} will be replaced" in printed
    assert "replaced the demo of long ago" in printed
    assert not (out / "train" / "weights").exists()
    assert list(tmp_path.iterdir()) == [out]
    there = earlier(out)
    assert there is not None
    assert there.created == results(out)["created"]
    digest = results(out)["model"]["digest"]
    figure = (out / "figures" / "accuracy.png").read_bytes()
    run_demo(DemoOptions(str(out)), quick=True, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert results(out)["model"]["digest"] == digest
    assert (out / "figures" / "accuracy.png").read_bytes() == figure


@pytest.mark.usefixtures("tiny")
def test_contradiction_stops_the_demo_and_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    before = tree(out)

    def tampered(path: Path) -> list[dict[str, Any]]:
        lines = read_lines(path)
        attacked = path.parts[-3] == "attack-pgd"
        return [line | {"status": "broken"} if attacked else line for line in lines]

    monkeypatch.setattr("equicert.cli.demo.study.read_lines", tampered)
    with pytest.raises(ContradictionError, match=r"is certified up to .* but pgd broke it at"):
        run_demo(DemoOptions(str(out)), quick=True, quiet=True)
    assert tree(out) == before
    assert list(tmp_path.iterdir()) == [out]


def line(index: int, status: str, radius: float | None = None) -> dict[str, Any]:
    return {"index": index, "status": status, "radius": radius, "method": "pgd"}


def test_consistent_lines_are_counted() -> None:
    lines = {
        ("certify-interval", 0.1): [line(0, "certified"), line(1, "unknown")],
        ("attack-pgd", 0.1): [line(0, "unbroken"), line(1, "broken")],
        ("attack-pgd", 0.2): [line(0, "broken"), line(1, "broken")],
    }
    reached = {"certify-interval": [line(0, "certified", 0.15), line(1, "unknown", None)]}
    assert study.require_consistent(lines, reached) == 1


@pytest.mark.parametrize("status", ["broken", "misclassified"])
@pytest.mark.parametrize("attacked_at", [0.05, 0.1, 0.15])
def test_broken_certificate_is_found_at_every_smaller_radius(
    status: str, attacked_at: float
) -> None:
    lines = {
        ("certify-interval", 0.1): [line(0, "certified")],
        ("attack-pgd", attacked_at): [line(0, status)],
    }
    reached = {"certify-lipschitz": [line(0, "certified", 0.15)]}
    with pytest.raises(ContradictionError, match=r"sample 0 is certified up to eps = 0\.15"):
        study.require_consistent(lines, reached)


def test_bad_settings_touch_nothing(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for options in (DemoOptions(str(out), seed=-1), DemoOptions(str(out), threads=0)):
        with pytest.raises(ConfigError):
            run_demo(options, quick=True, quiet=True)
    assert list(tmp_path.iterdir()) == []


def put_file(out: Path) -> None:
    out.write_text("mine")


def put_notes(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def put_notes_into_demo(out: Path) -> None:
    make_earlier(out)
    (out / "train" / "notes.txt").write_text("mine")


def put_folder_into_demo(out: Path) -> None:
    make_earlier(out)
    (out / "mine").mkdir()


def put_link_into_demo(out: Path) -> None:
    make_earlier(out)
    (out / "mine").symlink_to(out.parent)


def put_list_of_another(out: Path) -> None:
    make_earlier(out)
    found = results(out) | {"made_by": "somebody else"}
    (out / LIST).write_text(json.dumps(found))


def put_damaged_list(out: Path) -> None:
    make_earlier(out)
    (out / LIST).write_text((out / LIST).read_text()[:-5])


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (put_file, "is a file"),
        (put_notes, "holds no complete demo"),
        (put_notes_into_demo, "holds train/notes.txt, which the demo did not make"),
        (put_folder_into_demo, "holds mine, which"),
        (put_link_into_demo, "holds mine, which"),
        (put_list_of_another, "holds no complete demo"),
        (put_damaged_list, "holds no complete demo"),
    ],
)
def test_what_the_demo_did_not_make_is_refused(put: Any, message: str, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    put(out)
    before = tree(tmp_path)
    began = time.perf_counter()
    with pytest.raises(OutputError, match=re.escape(message)):
        run_demo(DemoOptions(str(out)), quick=True, quiet=True)
    assert time.perf_counter() - began < 5  # before any work
    assert tree(tmp_path) == before


@contextlib.contextmanager
def rebuilding(out: Path) -> Iterator[Path]:
    with replacing(out) as folder:
        (folder / "new").write_text("new")
        yield folder


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_build_leaves_everything(error: type[BaseException], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    before = tree(tmp_path)
    with pytest.raises(error), rebuilding(out):
        raise error
    assert tree(tmp_path) == before
    assert list(tmp_path.iterdir()) == [out]


def test_files_put_there_meanwhile_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    with pytest.raises(OutputError, match="did not make"), rebuilding(out):
        (out / "mine").write_text("mine")
    assert (out / "mine").read_text() == "mine"
    assert (out / "train" / "weights").read_text() == "old"


def test_failed_swap_puts_the_earlier_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    before = tree(tmp_path)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="No space left"), rebuilding(out):
        pass
    assert tree(tmp_path) == before


def test_empty_folder_and_link_are_used(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    assert earlier(out) is None
    (tmp_path / "link").symlink_to(out)
    with rebuilding(tmp_path / "link"):
        pass
    assert tree(out) == {"new": b"new"}
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_build_leaves_the_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    make_earlier(out)
    before = tree(out)
    code = (
        "import os, pathlib, signal, sys\n"
        "from equicert.cli.demo.replacement import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert tree(out) == before
    [left] = [path for path in tmp_path.iterdir() if path != out]
    with rebuilding(out):
        assert left.exists()  # it may be another demo that is at work
    hour_ago = time.time() - 3601
    os.utime(left, (hour_ago, hour_ago))
    shutil.rmtree(out)
    with rebuilding(out):
        pass
    assert not left.exists()
