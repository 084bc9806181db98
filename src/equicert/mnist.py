"""The four MNIST files: where they are looked for, how they are fetched, and the proof they are it.

A file counts by its contents alone: gzip or not, from whichever place or mirror, its uncompressed
bytes must have the published SHA-256. What is found and is not that is an error, never skipped.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from equicert.errors import DataError

DATA_DIR_VARIABLE = "EQUICERT_DATA_DIR"

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

_CHUNK = 1 << 16  # bytes
_REMEDY = f"put the four MNIST files into ${DATA_DIR_VARIABLE}/mnist"


@dataclass(frozen=True)
class IdxFile:
    """One unsigned-byte array in the IDX format: file name, shape, SHA-256 of the whole file."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> bytes:
        """The bytes before the array: a magic number with the rank, then the shape."""
        rank = len(self.shape)
        return struct.pack(f">HBB{rank}I", 0, 8, rank, *self.shape)

    @property
    def size(self) -> int:
        """Length of the uncompressed file in bytes."""
        return len(self.header) + math.prod(self.shape)


MNIST_FILES = (
    IdxFile(
        "train-images-idx3-ubyte",
        (60000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        (60000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        (10000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        (10000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def read_mnist(
    data_dir: Path | None = None,
    download: bool = True,
    progress: bool = False,
    *,
    files: Sequence[IdxFile] = MNIST_FILES,
    mirrors: Sequence[str] = MIRRORS,
    cache: Path | None = None,
) -> list[NDArray[np.uint8]]:
    """The arrays of `files`, in their order: training images and labels, test images and labels.

    Each file, with or without `.gz`, is looked up in `data_dir`/mnist, `data_dir`,
    $EQUICERT_DATA_DIR/mnist and the cache; one that is nowhere is downloaded to the cache from the
    first mirror that delivers it.

    Args:
        data_dir: the first folder to look in; it must exist.
        download: whether missing files may be fetched.
        progress: show a bar on standard error while downloading.
        files: names, shapes and sums of the files wanted.
        mirrors: addresses that a file name plus `.gz` is appended to.
        cache: folder of downloaded files; by default the user's cache folder.

    Raises:
        DataError: a file that is found is not the published one, or one is missing and cannot be
            downloaded.
    """
    cache = Path(pooch.os_cache("equicert")) / "mnist" if cache is None else cache
    places = _places(data_dir, cache)
    found = [_find(file, places) for file in files]
    missing = [file.name for file, path in zip(files, found, strict=True) if path is None]
    if missing and not download:
        raise DataError(
            f"MNIST: {', '.join(missing)} (with or without .gz) not found in"
            f" {', '.join(map(str, places))}; {_REMEDY}, or allow the download"
        )
    # Every local file is checked before the first download, so that a bad one is reported at once.
    local = [
        None if path is None else _read(path, file) for file, path in zip(files, found, strict=True)
    ]
    return [
        _download(file, cache, mirrors, progress) if array is None else array
        for file, array in zip(files, local, strict=True)
    ]


def _places(data_dir: Path | None, cache: Path) -> list[Path]:
    places = []
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(
                f"the data folder {data_dir} does not exist or is no folder; create it or leave the"
                " option out"
            )
        places += [data_dir / "mnist", data_dir]
    if variable := os.environ.get(DATA_DIR_VARIABLE):
        places.append(Path(variable) / "mnist")
    return [*places, cache]


def _find(file: IdxFile, places: Sequence[Path]) -> Path | None:
    for place in places:
        for path in (place / f"{file.name}.gz", place / file.name):
            try:
                if path.exists():
                    return path
            except OSError as error:  # a folder that may not be searched
                raise DataError(f"{path} cannot be looked up: {_line(error)}") from error
    return None


def _read(path: Path, file: IdxFile) -> NDArray[np.uint8]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {_line(error)}; make it readable or move it away"
        ) from error
    try:
        return _unpack(raw, file)
    except DataError as error:
        raise DataError(
            f"{path} is not the published MNIST file: {error}; delete it to have it downloaded"
            f" again, or {_REMEDY}"
        ) from error


def _unpack(
    raw: bytes,
    file: IdxFile,
) -> NDArray[np.uint8]:  # file.shape
    """The array in a file's bytes, whether or not they are a gzip stream."""
    gzipped = raw[:2] == b"\x1f\x8b"  # by content: some servers and browsers unpack, others do not
    stream = GzipFile(fileobj=io.BytesIO(raw)) if gzipped else io.BytesIO(raw)
    content, note = bytearray(), ""
    try:
        # The size is known, so a stream that swells without end is left one chunk too late.
        while len(content) <= file.size and (chunk := stream.read1(_CHUNK)):
            content += chunk
    except (OSError, EOFError, zlib.error) as error:
        note = f" before its gzip stream broke ({_line(error)})"
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        more = " or more" if len(content) > file.size else ""
        raise DataError(
            f"found SHA-256 {found} over {len(content)} bytes{more}{note}, expected {file.sha256}"
            f" over {file.size} bytes"
        )
    if len(content) != file.size or not content.startswith(file.header):
        raise DataError(
            f"its sum is right, but its {len(content)} bytes are no IDX array of shape {file.shape}"
            f" ({file.size} bytes)"
        )
    return np.frombuffer(content, np.uint8, offset=len(file.header)).reshape(file.shape)


def _cause(error: Exception) -> str:
    """A short reason: requests nests the whole call stack into its messages."""
    if isinstance(error, DataError):
        return _line(error)
    told = _line(error)
    return told if len(told) <= 80 else type(error).__name__


def _download(
    file: IdxFile, cache: Path, mirrors: Sequence[str], progress: bool
) -> NDArray[np.uint8]:
    """Fetch one file into the cache, from the first mirror whose bytes are the published ones."""
    tried = []
    for mirror in mirrors:
        url = f"{mirror}{file.name}.gz"
        try:
            raw = _fetch(url, progress)
            array = _unpack(raw, file)
        except (OSError, DataError) as error:  # requests' exceptions are OSErrors
            tried.append(f"{url} ({_cause(error)})")
            continue
        _store(cache / f"{file.name}.gz", raw)
        return array
    raise DataError(
        f"MNIST: no mirror delivered {file.name}: tried {', '.join(tried) or 'none'}; {_REMEDY}, or"
        " try again later"
    )


def _fetch(url: str, progress: bool) -> bytes:
    """The body of a response, held in memory (10 MB) so that no half file ever reaches the disk."""
    body = io.BytesIO()
    with _Bar(url.rpartition("/")[2]) if progress else nullcontext(False) as bar:
        # pooch takes any object with these names; its annotation is inferred from the default.
        downloader = pooch.HTTPDownloader(bar, _CHUNK)  # pyright: ignore[reportArgumentType]
        downloader(url, body, None)
    return body.getvalue()


class _Bar:
    """A download's progress on standard error, under the names that pooch calls."""

    total: float = 0

    def __init__(self, name: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID = self._progress.add_task(name, total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        """Advance by `count` bytes."""
        self._progress.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        """Back to zero: pooch does so once, before it fills the bar."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Leaving the `with` block stops the bar, after failures too."""


def _store(path: Path, raw: bytes) -> None:
    """Write a checked file under another name and move it into place, or leave nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
        finally:  # after a failure or an interrupt; gone already after a success
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} was downloaded but cannot be stored: {_line(error)}; make the folder writable,"
            f" or {_REMEDY}"
        ) from error


def _line(error: Exception) -> str:
    """An exception's text on one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
