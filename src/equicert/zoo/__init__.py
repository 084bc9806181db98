"""Models that come with the package: `zoo:NAME` wherever the path of a model is taken.

Each is a file NAME.safetensors in this folder and an entry of index.json, which says what was
measured when it was made, and by which command. A file is read only if it has the SHA-256 of its
entry. The numbers of an entry are claims: nothing believes them, every certificate is computed
anew from the weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from equicert.errors import ModelError, nearest

PREFIX: Final = "zoo:"
FOLDER: Final = Path(__file__).parent
INDEX: Final = "index.json"


@dataclass(frozen=True)
class Shipped:
    """An entry of the index.

    Attributes:
        sha256: of the file.
        data: what it was trained on and measured with, as `--data` names it.
        structure: of W and U, in words.
        units: n, the number of states.
        activation: as `--activation` names it.
        parameters: entries of the stored W, U, b, C and c.
        eps: the radius at which it was certified, in the sup-norm.
        samples: the size of the test split.
        correct: how many of them have their label.
        certified: how many of them are certified at eps.
        method: by which method.
        trained: the command that made it.
        measured: the command that gives `correct` and `certified` again.
    """

    sha256: str
    data: str
    structure: str
    units: int
    activation: str
    parameters: int
    eps: float
    samples: int
    correct: int
    certified: int
    method: str
    trained: str
    measured: str


def names() -> tuple[str, ...]:
    """The models that come with the package, in alphabetical order."""
    return tuple(entries())


def entries() -> dict[str, Shipped]:
    """What is claimed of each model, by name.

    Raises:
        ModelError: the index is missing or damaged.
    """
    try:
        found = json.loads((FOLDER / INDEX).read_text("utf-8"))
        return {name: Shipped(**entry) for name, entry in sorted(found.items())}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{FOLDER / INDEX}, the list of the models of the package, cannot be read:"
            f" {' '.join(str(error).split())}; install equicert again"
        ) from error


def path(name: str) -> Path:
    """The file of a model, found to have the SHA-256 of its entry.

    Example:
        >>> network = load_model(path("digits"))  # or load_model("zoo:digits")

    Raises:
        ModelError: there is no such model, or its file is missing or damaged.
    """
    known = entries()
    if name not in known:
        raise ModelError(
            f"no model '{name}' comes with the package{nearest(name, known)}; `equicert zoo` lists"
            " them"
        )
    file = FOLDER / f"{name}.safetensors"
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(
            f"{PREFIX}{name}: {file} cannot be read: {error.strerror}; install equicert again"
        ) from error
    if found != known[name].sha256:
        raise ModelError(
            f"{PREFIX}{name}: {file} is damaged: its SHA-256 is {found[:16]}..., not"
            f" {known[name].sha256[:16]}...; install equicert again"
        )
    return file


def resolve(model: str | Path) -> Path:
    """The file that is meant: that of NAME for `zoo:NAME`, every other path as it is.

    Raises:
        ModelError: as `path`.
    """
    text = str(model)
    return path(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else Path(model)
