"""The checker against falsified trees and witnesses, byte by byte, each decided independently.

`Judge` of `tree_proofs.py` reads the bytes again and decides in plain fractions. Claims are tight:
a lemma or margin that is raised by one unit in the last place no longer follows.
"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from pathlib import Path

import pytest

from equicert.checker import NotValidError, UnreadableError, check_folder
from proofs import MAGIC, framed
from tree_proofs import Judge, MalformedError, Reader
from tree_prover import ACTIVATIONS, Case, proved, witnessed

CASES = [
    (make, activation, contracting)
    for make in (proved, witnessed)
    for activation in ACTIVATIONS
    for contracting in (True, False)
]


def numbers(case: Case, body: bytes) -> list[int]:
    """Where the float64 numbers of a record begin."""
    reader = Reader(body, *case.folder.sizes)
    judge = Judge(case.folder)
    kind, form, _, label = reader.unpack("<BBII")
    reader.floats(1 if form == 0 else 2 * reader.r)
    if kind == 3:
        reader.unpack("<I")
        reader.floats(reader.r)
    Z = judge._states(case.problem, reader.start(), 1)  # type: ignore[arg-type]
    if kind == 2:
        assert Z is not None
        assert judge._tree(case.problem, reader, label, Z)
    return reader.numbers


def mutate(body: bytes, places: list[int], rng: random.Random) -> bytes:
    """Another record: a number moved by units in the last place, or any byte changed."""
    made, kind = bytearray(body), rng.random()
    if kind < 0.5:
        at = rng.choice(places)
        (bits,) = struct.unpack_from("<Q", made, at)
        moved = (bits + rng.choice([-1, 1, -2, 2, 1 << 52, -(1 << 52), 1 << 63])) % (1 << 64)
        struct.pack_into("<Q", made, at, moved)
    elif kind < 0.93:
        at = rng.randrange(len(made))
        made[at] = rng.choice(
            [made[at] ^ 1 << rng.randrange(8), rng.randrange(256), (made[at] + 1) % 256]
        )
    elif kind < 0.96:
        at, count = rng.randrange(len(made)), rng.randint(1, 16)
        del made[at : at + count]
    else:
        at, count = rng.randrange(len(made)), rng.randint(1, 16)
        made[at:at] = made[at : at + count]
    return bytes(made)


def verdict(paths: tuple[Path, Path], body: bytes) -> str:
    (paths[0] / "certificates.bin").write_bytes(MAGIC + framed(body))
    try:
        check_folder(*paths)
    except UnreadableError:
        return "unreadable"
    except NotValidError:
        return "not valid"
    return "valid"


def compare(case: Case, root: Path, count: int, rng: random.Random) -> Counter[str]:
    """What the checker says of so many mutations; the judge agrees with each."""
    judge, body = Judge(case.folder), case.record.body()
    assert judge.folder_holds()
    assert judge.holds(body) is True
    case.folder.proofs = [case.record]
    paths, places = case.folder.write(root), numbers(case, body)
    found = Counter[str]()
    for _ in range(count):
        changed = mutate(body, places, rng)
        said, expected = verdict(paths, changed), judge.holds(changed)
        if expected is None:  # it turns on how the ball is rounded
            found["open"] += 1
            continue
        assert (said == "valid") == expected, (said, changed.hex())
        found[said] += 1
    return found


def _named(case: tuple[object, str, bool]) -> str:
    make, activation, contracting = case
    return f"{getattr(make, '__name__', '')} {activation} {'eta' if contracting else 'ball'}"


@pytest.mark.parametrize("chosen", CASES, ids=_named)
def test_the_judge_agrees_on_every_mutation(
    chosen: tuple[object, str, bool], tmp_path: Path
) -> None:
    make, activation, contracting = chosen
    case = make(5, activation, contracting)  # type: ignore[operator]
    count = 80 if make is proved else 50
    found = compare(case, tmp_path, count, random.Random(_named(chosen)))
    sys.stdout.write(f"\n{_named(chosen)}: {dict(found)}\n")
    assert found["valid"] > 0
    assert found["not valid"] > 0.2 * count
    assert found["open"] < 0.2 * count


@pytest.mark.long
@pytest.mark.parametrize("chosen", CASES, ids=_named)
@pytest.mark.parametrize("seed", range(4))
def test_the_judge_agrees_on_thousands(
    chosen: tuple[object, str, bool], seed: int, tmp_path: Path
) -> None:
    make, activation, contracting = chosen
    domain = (0.0, 1.0) if seed % 2 else None
    case = make(10 + seed, activation, contracting, domain)  # type: ignore[operator]
    found = compare(case, tmp_path, 500, random.Random(f"{seed} {_named(chosen)}"))
    sys.stdout.write(f"\n{seed} {_named(chosen)}: {dict(found)}\n")
    assert {"valid", "not valid", "unreadable"} <= set(found)


def test_the_judge_refuses_what_is_cut() -> None:
    case = proved(5, "relu", contracting=True)
    judge, body = Judge(case.folder), case.record.body()
    assert judge.holds(body) is True
    for length in range(len(body)):
        assert judge.holds(body[:length]) is False
    with pytest.raises(MalformedError):
        Reader(body[:9], *case.folder.sizes).unpack("<BBII")
