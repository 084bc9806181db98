"""A folder that is replaced as a whole: built beside its place, then swapped in.

A kill at any moment leaves the earlier folder or the new one, never a mixture; in the instant
between two renames, both, in a hidden folder beside the place. Only a folder whose every file is in
the list that its maker left there is replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from equicert.errors import OutputError

LIST: Final = "results.json"  # holds the list of files, under "files"
MAKER: Final = "equicert demo"  # stands there under "made_by"
_ABANDONED: Final = 3600.0  # seconds after which a folder under construction has no builder


@dataclass(frozen=True)
class Earlier:
    """What is in the place already: when it was made, in words."""

    created: str


def earlier(out: Path) -> Earlier | None:
    """What a replacement of `out` would remove; None if the place is free or empty.

    Raises:
        OutputError: it holds anything that is not in its list, or is no folder.
    """
    refusal = "remove it yourself, or choose another folder"
    try:
        if not out.exists():
            return None
        if not out.is_dir():
            raise OutputError(f"{out} is a file; choose a folder")
        if not any(out.iterdir()):
            return None
        listed, created = _listed(out / LIST)
        foreign = [] if listed is None else sorted(set(_entries(out)) - listed)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot read {out}: {error.strerror}; choose another folder") from error
    if listed is None:
        raise OutputError(
            f"{out} is not empty and holds no complete demo, so it is not replaced; {refusal}"
        )
    if foreign:
        raise OutputError(
            f"{out} holds {foreign[0]}, which the demo did not make, so it is not replaced;"
            " move that elsewhere, or choose another folder"
        )
    return Earlier(created)


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give an empty folder to build in; on leaving without an error it takes the place of `out`.

    Raises:
        OutputError: as `earlier`, then and at the end; or the disk or the folder refuses.
    """
    place = out.resolve()  # a link keeps pointing where it points
    earlier(place)
    site = _site(place)
    new, old = site / "new", site / "old"
    try:
        new.mkdir()
        yield new
        _swap(new, place, old)
    finally:
        if old.exists() and not place.exists():  # interrupted between the two renames
            with suppress(OSError):
                old.rename(place)
        if place.exists() or not old.exists():
            shutil.rmtree(site, ignore_errors=True)


def list_files(folder: Path) -> list[str]:
    """All files of a folder by their relative path, and LIST itself."""
    return sorted({*_entries(folder), LIST})


def _site(place: Path) -> Path:
    """A new folder beside the place, for what is being built; abandoned ones are removed."""
    prefix, suffix = f".{place.name}.", ".unfinished"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f"{prefix}*{suffix}"):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(suffix, prefix, place.parent))
    except OSError as error:
        raise OutputError(
            f"cannot make a folder in {place.parent}: {error.strerror}; choose another folder"
        ) from error


def _swap(new: Path, place: Path, old: Path) -> None:
    earlier(place)  # nobody has put anything there meanwhile
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    except OSError as error:
        raise OutputError(
            f"cannot put the new folder in the place of {place}: {error.strerror}; choose another"
            " folder"
        ) from error


def _entries(folder: Path) -> Iterator[str]:
    """Relative paths of all files, links, and empty folders; links are not followed."""
    for root, folders, names in os.walk(folder):
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        if not folders and not names and here != folder:
            yield here.relative_to(folder).as_posix()
        for name in (*names, *links):
            yield (here / name).relative_to(folder).as_posix()


def _listed(path: Path) -> tuple[set[str] | None, str]:
    """The listed files and the date; None where there is no such list."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["made_by"] == MAKER:
            return set(map(str, found["files"])), str(found["created"])
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError):
        pass
    return None, ""
