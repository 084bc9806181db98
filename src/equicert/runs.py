"""Output folders: one run each, nothing half-written, and a kill at any moment leaves them usable.

A folder belongs to the run that `run.json` describes, by its kind (train, certify, ...) and its
identity: what a resumed run must have in common with the one that it continues.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from equicert.errors import OutputError

_CLAIM: Final = "run.json"
_PACKAGES: Final = ("equicert", "torch", "numpy")

_REMEDIES: Final = {
    errno.ENOSPC: "free some space, then resume the run",
    errno.EDQUOT: "free some space, then resume the run",
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EEXIST: "it is a file; choose another folder",
    errno.EISDIR: "it is a folder; remove it or choose another output folder",
    errno.ENAMETOOLONG: "choose a shorter path",
}


@dataclass(frozen=True)
class RunFolder:
    """An output folder claimed by one run.

    Attributes:
        path: the folder, which exists.
        kind: what made it: "train", "certify", ...
        identity: what the run is about, as JSON holds it.
        resumed: whether the folder held this very run already.
    """

    path: Path
    kind: str
    identity: dict[str, Any]
    resumed: bool

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, data: bytes | str) -> Path:
        """Write a file of the folder atomically."""
        write_atomic(self.path / name, data)
        return self.path / name


def claim_folder(
    out: str | Path, kind: str, identity: Mapping[str, Any], resume: bool = False
) -> RunFolder:
    """Make `out` the folder of this run, or find that it already is.

    Example: `claim_folder("runs/one", "certify", {"model": digest, "eps": 0.1}, resume=True)`.

    A new or empty folder is claimed by writing `run.json`. Resuming where nothing was begun
    starts.

    Args:
        out: the folder; missing parents are created.
        kind: "train", "certify", ...
        identity: JSON values that make the run what it is.
        resume: whether to continue the same run if the folder holds it.

    Raises:
        OutputError: the folder holds another run, or this one and `resume` is False, or files of
            somebody else; it cannot be written.
    """
    folder = Path(out)
    claim = {"kind": kind, "identity": json.loads(json.dumps(dict(identity), allow_nan=False))}
    with reporting(folder, "make the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    held = read_claim(folder)
    if held is not None:
        _require_same(folder, held, claim)
        if not resume:
            raise OutputError(
                f"{folder} holds this very run already; resume it, or choose another folder"
            )
    with reporting(folder, "read"):
        for left in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
        if held is None and any(folder.iterdir()):
            raise OutputError(
                f"{folder} is not empty and holds no run of equicert; choose a new or empty folder"
            )
    if held is None:
        write_atomic(folder / _CLAIM, json.dumps(claim, indent=2) + "\n")
    return RunFolder(folder, kind, claim["identity"], held is not None)


def read_claim(out: str | Path) -> dict[str, Any] | None:
    """The `kind` and `identity` of the run that a folder holds; None where it holds none.

    Raises:
        OutputError: `run.json` cannot be read or is damaged.
    """
    path = Path(out) / _CLAIM
    with reporting(path, "read"):
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = ""
    try:
        claim = json.loads(text)
        kind, identity = claim["kind"], claim["identity"]
    except (ValueError, KeyError, TypeError):
        claim, kind, identity = None, None, None
    if not isinstance(kind, str) or not isinstance(identity, dict):
        raise OutputError(f"{path} is damaged: it names no run; choose another folder")
    return claim


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a whole file or, on any failure or kill, leave what was there before.

    Raises:
        OutputError: the folder is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with reporting(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


class Appended:
    """A file that grows at its end: what is written outlives a kill of this process at once.

    Closing, also at the end of a `with`, brings it to the disk.

    Args:
        path: for messages.
        file: open for writing, at its end.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file

    def write(self, data: bytes | memoryview) -> None:
        """Write it whole.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        with reporting(self.path, "write"):
            self._file.write(data)
            self._file.flush()

    def close(self) -> None:
        """Bring what was written to the disk and close the file."""
        with reporting(self.path, "write"):
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OutputError:
            if error is None:  # else the first failure is the one to report
                raise


class JsonLines(Appended):
    """Appends to a file of one JSON object a line; each line is complete before `append` returns.

    Opening drops a last line that a kill cut short, and with `keep` all but the first lines.

    Example:
        >>> with JsonLines(folder / "verdicts.jsonl") as lines:
        ...     lines.append({"index": 0, "status": "certified"})

    Args:
        path: the file; created if missing.
        keep: number of lines to keep; default all complete ones.

    Raises:
        OutputError: the file cannot be written, or it has fewer than `keep` lines.
    """

    def __init__(self, path: str | Path, keep: int | None = None) -> None:
        path = Path(path)
        with reporting(path, "read"):
            content = path.read_bytes() if path.exists() else b""
        lines = content.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        if keep is not None and len(lines) < keep:
            raise OutputError(
                f"{path} has {len(lines)} complete lines where {keep} were written; it was"
                " damaged: start again in another folder"
            )
        kept = b"".join(lines[:keep])
        if kept != content:
            write_atomic(path, kept)
        with reporting(path, "write"):
            super().__init__(path, path.open("ab"))

    def append(self, item: Mapping[str, Any]) -> None:
        """Write one line, so that a kill of this process cannot lose it.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        self.extend([item])

    def extend(self, items: Iterable[Mapping[str, Any]]) -> None:
        """The same for several lines in one write.

        Raises:
            OutputError: as `append`.
        """
        lines = "".join(json.dumps(dict(item), allow_nan=False) + "\n" for item in items)
        self.write(lines.encode())


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The complete lines of a file of JSON objects; one that a kill cut short is left out.

    Raises:
        OutputError: the file is missing or a complete line is no JSON object.
    """
    with reporting(Path(path), "read"):
        content = Path(path).read_bytes()
    items: list[dict[str, Any]] = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            item = json.loads(line)
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise OutputError(
                f"line {number} of {path} is no JSON object: the file was damaged; start again in"
                " another folder"
            )
        items.append(item)
    return items


def versions() -> dict[str, str]:
    """What a result depends on beside its inputs: versions of the software, and the machine."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            found[package] = "not installed"
    return found | {"platform": platform.platform()}


def _require_same(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    if held["kind"] != wanted["kind"]:
        raise OutputError(
            f"{folder} holds another run: '{held['kind']}', not '{wanted['kind']}'; choose another"
            " folder"
        )
    if found := different(held["identity"], wanted["identity"]):
        raise OutputError(f"{folder} holds another run: {found}")


def different(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first entry in which two JSON objects differ, and what to do; "" where none does."""
    keys = [key for key in {**there, **here} if _shown(there, key) != _shown(here, key)]
    if not keys:
        return ""
    more = f" and {len(keys) - 1} more differ" if keys[1:] else ""
    texts = (textwrap.shorten(_shown(side, keys[0]), 80) for side in (there, here))
    return "{} is {} there and {} here{}; choose another folder".format(keys[0], *texts, more)


def _shown(identity: Mapping[str, Any], key: str) -> str:
    return json.dumps(identity[key], sort_keys=True) if key in identity else "absent"


@contextlib.contextmanager
def reporting(path: Path, doing: str) -> Iterator[None]:
    """Turn what the operating system says into one line with a remedy."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(f"cannot {doing} {path}: {reason}; {remedy}") from error
