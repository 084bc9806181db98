"""Output folders: whose they are, and that nothing in them is ever half-written."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from equicert.errors import EquicertError, OutputError
from equicert.runs import (
    JsonLines,
    claim_folder,
    read_claim,
    read_lines,
    versions,
    write_atomic,
)

IDENTITY = {"model": "abc", "eps": 0.1, "domain": [0.0, 1.0], "limit": None}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the operating system cut every file at `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(code: int) -> Any:
    """Return a function that fails as the operating system would."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def one_line(error: pytest.ExceptionInfo[EquicertError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- claiming


def test_new_folder_is_claimed_with_its_parents(tmp_path: Path) -> None:
    out = tmp_path / "one" / "two"
    run = claim_folder(out, "certify", IDENTITY)
    assert not run.resumed
    assert run.identity == IDENTITY
    assert read_claim(out) == {"kind": "certify", "identity": IDENTITY}
    assert names(out) == {"run.json"}


def test_same_run_is_resumed_only_on_request(tmp_path: Path) -> None:
    claim_folder(tmp_path, "certify", IDENTITY)
    with pytest.raises(OutputError, match="holds this very run already; resume it") as error:
        claim_folder(tmp_path, "certify", IDENTITY)
    assert str(tmp_path) in one_line(error)
    again = claim_folder(tmp_path, "certify", {**IDENTITY, "domain": (0.0, 1.0)}, resume=True)
    assert again.resumed


def test_resuming_where_nothing_was_begun_starts(tmp_path: Path) -> None:
    assert not claim_folder(tmp_path / "new", "train", IDENTITY, resume=True).resumed


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("kind", "identity", "said"),
    [
        ("train", IDENTITY, "'certify', not 'train'"),
        ("certify", IDENTITY | {"eps": 0.2}, "eps is 0.1 there and 0.2 here;"),
        ("certify", IDENTITY | {"extra": 1}, "extra is absent there and 1 here"),
        ("certify", {"model": "abc"}, "eps is 0.1 there and absent here and 2 more differ"),
        ("certify", IDENTITY | {"eps": 1, "model": ""}, '"abc" there and "" here and 1 more'),
    ],
)
def test_folder_of_another_run_is_refused(
    tmp_path: Path, kind: str, identity: dict[str, Any], said: str, resume: bool
) -> None:
    claim_folder(tmp_path, "certify", IDENTITY)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(OutputError, match="another run") as error:
        claim_folder(tmp_path, kind, identity, resume)
    assert said in one_line(error)
    assert (tmp_path / "run.json").read_bytes() == before
    assert names(tmp_path) == {"run.json"}


@pytest.mark.parametrize("resume", [False, True])
def test_folder_with_files_of_somebody_else_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not empty and holds no run"):
        claim_folder(tmp_path, "train", IDENTITY, resume)
    assert names(tmp_path) == {"thesis.tex"}


def test_leftovers_of_a_killed_write_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".run.json.4242.tmp").write_text('{"kind"')
    assert not claim_folder(tmp_path, "train", IDENTITY).resumed
    (tmp_path / ".checkpoint.pt.4242.tmp").write_bytes(b"half")
    assert claim_folder(tmp_path, "train", IDENTITY, resume=True).resumed
    assert names(tmp_path) == {"run.json"}


@pytest.mark.parametrize(
    "content", [b"", b'{"kind": "tr', b"[]", b'{"kind": 1, "identity": {}}', b'{"kind": "train"}',
                b"\xff\xfe"],
)  # fmt: skip
def test_damaged_claim_is_no_claim(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match="damaged"):
        claim_folder(tmp_path, "train", IDENTITY, resume=True)
    assert (tmp_path / "run.json").read_bytes() == content


@pytest.mark.parametrize("below", ["", "child"])
def test_folder_that_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file; choose another folder") as error:
        claim_folder(tmp_path / "file" / below, "train", IDENTITY)
    one_line(error)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.EROFS, "can be written"), (errno.EACCES, "may write"), (errno.ENOSPC, "free some")],
)
@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.fsync", "pathlib.Path.replace"])
def test_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, remedy: str
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(call, failing(code))
        with pytest.raises(OutputError, match=remedy) as error:
            claim_folder(out, "train", IDENTITY)
    assert str(out) in one_line(error)
    assert os.strerror(code) in one_line(error)
    assert not out.exists() or names(out) == set()
    claim_folder(out, "train", IDENTITY)  # nothing was claimed


# --- whole files


@pytest.mark.parametrize(("data", "content"), [("é\n", "é\n".encode()), (b"\x00\r\n", b"\x00\r\n")])
def test_whole_file_is_written_exactly(tmp_path: Path, data: str | bytes, content: bytes) -> None:
    path = tmp_path / "file"
    for _ in range(2):  # new, and over what is there
        write_atomic(path, data)
        assert path.read_bytes() == content
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("failure", ["size", "os.fsync", "pathlib.Path.replace"])
def test_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "before")
    limit = 10**9
    if failure == "size":
        limit = 1000
    else:
        monkeypatch.setattr(failure, failing(errno.ENOSPC))
    with file_size_limit(limit), pytest.raises(OutputError, match="cannot write"):
        write_atomic(path, b"x" * 100_000)
    assert path.read_text() == "before"
    assert names(tmp_path) == {"file"}


def test_file_is_complete_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.parent, self.read_text(), target.exists()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_atomic(tmp_path / "file", "whole")
    assert seen == [(tmp_path, "whole", False)]


def test_missing_folder_and_occupied_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_atomic(tmp_path / "missing" / "file", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_atomic(tmp_path / "folder", "")
    assert names(tmp_path) == {"folder"}


# --- lines

ITEMS = [{"index": k, "text": "é\n", "margin": 0.1 * k, "reason": None} for k in range(5)]


def write_items(path: Path) -> None:
    with JsonLines(path) as lines:
        for item in ITEMS:
            lines.append(item)


def test_lines_come_back(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_items(path)
    assert read_lines(path) == ITEMS
    assert len(path.read_text().splitlines()) == len(ITEMS)


def test_each_line_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        for k, item in enumerate(ITEMS):
            lines.append(item)
            assert read_lines(path) == ITEMS[: k + 1]


def test_cut_at_any_byte_keeps_the_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_items(path)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        assert read_lines(path) == ITEMS[:complete]
        with JsonLines(path) as lines:
            lines.append({"new": size})
        assert read_lines(path) == [*ITEMS[:complete], {"new": size}]


@pytest.mark.parametrize("keep", [0, 3, 5])
def test_only_the_lines_to_keep_are_kept(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "lines.jsonl"
    write_items(path)
    JsonLines(path, keep).close()
    assert read_lines(path) == ITEMS[:keep]


def test_lost_lines_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_items(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OutputError, match="4 complete lines where 5 were written"):
        JsonLines(path, keep=5)
    with pytest.raises(OutputError, match="0 complete lines where 1"):
        JsonLines(tmp_path / "missing.jsonl", keep=1)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff"])
def test_damaged_line_is_an_error(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"index": 0}\n' + damage + b'\n{"index": 2}\n')
    with pytest.raises(OutputError, match="line 2 of"):
        read_lines(path)


def test_missing_lines_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot read"):
        read_lines(tmp_path / "missing.jsonl")


def test_full_disk_costs_the_line_only(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines:
        lines.append({"index": 0})
    with file_size_limit(path.stat().st_size + 10):
        lines = JsonLines(path)
        with pytest.raises(OutputError, match="cannot write"), lines:
            lines.append({"index": 1, "text": "x" * 100})
    assert path.read_bytes().startswith(b'{"index": 0}\n{"index"')
    assert read_lines(path) == [{"index": 0}]
    with JsonLines(path) as lines:
        lines.append({"index": 1})
    assert read_lines(path) == [{"index": 0}, {"index": 1}]


def test_number_that_json_lacks_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as lines, pytest.raises(ValueError, match="not JSON compliant"):
        lines.append({"margin": float("nan")})
    assert path.read_bytes() == b""


def test_versions_are_json() -> None:
    found = versions()
    assert {"python", "equicert", "torch", "numpy", "platform"} <= found.keys()
    assert json.loads(json.dumps(found)) == found
    assert all(found.values())
