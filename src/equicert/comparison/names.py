"""Short names for model files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from equicert.errors import InputError
from equicert.training import MODEL

_ENDINGS = (".safetensors", ".npz")


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart.

    A name leaves out the ending and, below a folder, the `model.safetensors` that every training
    run writes, unless two models would then have the same.

    Example:
        >>> short_names(["runs/a/model.safetensors", "runs/b/model.safetensors", "nets/c.npz"])
        ['a', 'b', 'c']

    Raises:
        InputError: a file is given twice.
    """
    whole = [Path(path).resolve() for path in paths]
    for path, count in Counter(whole).items():
        if count > 1:
            raise InputError(f"{path} is given {count} times; name each model once")
    bare = [_without_ending(path) for path in whole]
    kept = bare if len(set(bare)) == len(bare) else whole
    return [_shortest(path, kept) for path in kept]


def _without_ending(path: Path) -> Path:
    """The folder of a `model.safetensors`, else the path without the ending of a model file."""
    if path.name == MODEL:
        return path.parent
    return path.with_suffix("") if path.suffix.lower() in _ENDINGS else path


def _shortest(path: Path, among: Sequence[Path]) -> str:
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if sum(other.parts[-length:] == end for other in among) == 1:
            return "/".join(end)
    return str(path)
