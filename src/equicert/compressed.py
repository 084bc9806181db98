"""Files that may be compressed: `.gz` is read as what is in it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from equicert.errors import InputError

_LIMIT = 2**30  # bytes; a few kilobytes of gzip can unfold into more than fits the memory


def find_file(path: Path) -> Path:
    """The file itself, or the one with `.gz` behind its name where only that exists.

    Raises:
        InputError: there is neither, or it is a folder.
    """
    packed = path.with_name(path.name + ".gz")
    found = packed if not path.exists() and packed.exists() else path
    if found.is_dir():
        raise InputError(f"{path} is a folder; name the file in it")
    if not found.exists():
        raise InputError(f"{path} does not exist, nor with .gz behind its name; check the path")
    return found


def read_file(path: Path, limit: int = _LIMIT) -> bytes:
    """The contents of `find_file(path)`, unpacked if its name ends in `.gz`.

    Raises:
        InputError: it cannot be read, is no gzip file although named so, or exceeds the limit.
    """
    found = find_file(path)
    packed = found.suffix == ".gz"
    try:
        with gzip.open(found) if packed else found.open("rb") as stream:
            contents = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{found} cannot be read: {reason}") from error
    if len(contents) > limit:
        raise InputError(f"{found} holds more than {limit >> 20} MiB; nothing that large is read")
    return contents


def plain_suffix(path: Path) -> str:
    """The ending that says what a file is: ".onnx" of "net.onnx.gz"."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()
