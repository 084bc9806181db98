"""Models that come with the package: the index tells the truth, and nothing believes it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import zoo as shipping
from command import run
from equicert import zoo
from equicert.cli import reproduce
from equicert.cli.options import ReproduceOptions
from equicert.comparison.measurement import stored_entries
from equicert.errors import ModelError
from equicert.experiments.verification.definition import Verification
from equicert.models import load_model, model_metadata, save_model
from equicert.stored import StoredNetwork

ENTRIES = zoo.entries()
NAMES = sorted(ENTRIES)
DIGITS = ["zoo:digits", "--data", "digits", "--eps", "0.05"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's folder of models, in its place."""
    copy = tmp_path / "installed"
    shutil.copytree(zoo.FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(zoo, "FOLDER", copy)
    return copy


def tiny(gain: float) -> StoredNetwork:
    """Three states that contract if gain < 1, on two inputs, with two classes."""
    rng = np.random.default_rng(0)
    shapes = {"U": (3, 2), "b": (3,), "C": (2, 3), "c": (2,)}
    rest = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return StoredNetwork.from_arrays(W=gain * np.eye(3), **rest, activation="relu")


def entered(folder: Path, name: str, network: StoredNetwork, **changes: Any) -> None:
    """Enter a model in the index of a folder, its file with the right SHA-256."""
    path = folder / f"{name}.safetensors"
    save_model(path, network)
    index = json.loads((folder / "index.json").read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    index[name] = {**index["digits"], "sha256": sha256, **changes}
    (folder / "index.json").write_text(json.dumps(index))


def points(path: str, network: StoredNetwork) -> None:
    """Write nine points with the labels that the network gives them, but for the first one."""
    x = np.random.default_rng(1).uniform(size=(9, 2))
    y = network.predict(torch.from_numpy(x)).argmax(1).numpy()
    y[0] = 1 - y[0]
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)


def test_every_file_has_its_entry() -> None:
    files = {path.name for path in zoo.FOLDER.iterdir() if path.suffix not in ("", ".py")}
    assert files == {zoo.INDEX, *(f"{name}.safetensors" for name in NAMES)}
    assert zoo.names() == tuple(NAMES)
    assert "digits" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_true_of_its_file(name: str) -> None:
    entry, path = ENTRIES[name], zoo.path(name)
    assert path.stat().st_size < shipping.MOST_BYTES
    network = load_model(f"zoo:{name}")
    assert network.contraction.mu < 1
    assert network.states == entry.units
    assert network.activation.spec == entry.activation
    assert sum(tensor.numel() for tensor in stored_entries(network)) == entry.parameters
    assert model_metadata(f"zoo:{name}")["data"] == entry.data
    assert 0 < entry.certified <= entry.correct <= entry.samples
    assert entry.trained.startswith("equicert train ")
    words = shlex.split(entry.measured)
    assert words[:3] == ["equicert", "certify", f"zoo:{name}"]
    assert words[words.index("--data") + 1] == entry.data
    assert float(words[words.index("--eps") + 1]) == entry.eps


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if ENTRIES[name].data == "digits" else pytest.mark.long)
        for name in NAMES
    ],
)
def test_the_command_of_an_entry_gives_its_numbers(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    entry = ENTRIES[name]
    if entry.data == "mnist":
        request.getfixturevalue("mnist_dir")
    out = tmp_path / "certify"
    words = shlex.split(entry.measured)[1:]
    assert run(*words, "--out", str(out), "--quiet") == 0
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == entry.samples
    assert sum(line["predicted"] == line["label"] for line in lines) == entry.correct
    certified = sum(line["status"] == "certified" for line in lines)
    assert abs(certified - entry.certified) <= 1  # the proposals of another machine's sums
    assert json.loads((out / "summary.json").read_text())["method"] == entry.method


def test_a_name_is_taken_wherever_a_model_is(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    entered(folder, "tiny-0.1", tiny(0.5))
    points("data.npz", tiny(0.5))
    common = ["zoo:tiny-0.1", "--data", "data.npz", "--eps", "0"]
    assert run("certify", *common, "--certificates", "proofs") == 0
    assert run("check", "proofs", "--model", "zoo:tiny-0.1") == 0
    assert run("check", "proofs", "--model=zoo:tiny-0.1") == 0
    assert capsys.readouterr().out.count("valid: 8 certificates") == 2
    assert run("attack", *common, "--attack", "fgsm") == 0
    assert run("inspect", "zoo:tiny-0.1", "--quiet") == 0
    assert run("bound", "zoo:tiny-0.1", "--center", "0,1", "--eps", "0.1", "--quiet") == 0
    assert run("compare", *common, "--out", "compared") == 0
    assert "zoo:tiny-0.1" in capsys.readouterr().out
    assert (tmp_path / "compared" / "1-zoo-tiny-0.1").is_dir()
    names = [f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1")]
    box = [f"(assert (>= X_{k} 0))(assert (<= X_{k} 1))" for k in range(2)]
    Path("p.vnnlib").write_text("\n".join([*names, *box, "(assert (>= Y_0 1000000000))"]))
    assert run("verify", "--network", "zoo:tiny-0.1", "--property", "p.vnnlib") == 0
    assert capsys.readouterr().out.splitlines()[0] == "unsat"


def test_reproduce_takes_the_name() -> None:
    given = ReproduceOptions("digits", "runs/none", model="zoo:digits")
    study, _ = reproduce._planned("verification", given, quick=True)
    assert isinstance(study, Verification)
    assert study.given is not None
    assert study.given.digest == load_model(zoo.path("digits")).digest


def test_python_takes_the_name_too() -> None:
    by_name = load_model("zoo:digits")
    assert load_model(Path("zoo:digits")).digest == by_name.digest
    assert load_model(zoo.path("digits")).digest == by_name.digest
    assert zoo.resolve("runs/a/model.safetensors") == Path("runs/a/model.safetensors")


@pytest.mark.parametrize("name", ["digts", "", "../digits", "digits.safetensors", "index.json"])
@pytest.mark.parametrize("command", ["inspect", "check proofs --model"])
def test_an_unknown_name_is_one_clear_line(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command.split(), f"zoo:{name}") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"no model '{name}' comes with the package" in line
    assert "digits" in line
    assert "`equicert zoo`" in line
    assert ("did you mean 'digits'?" in line) == (name not in ("", "index.json"))


@pytest.mark.parametrize("command", [["zoo"], ["certify", *DIGITS]])
@pytest.mark.parametrize("damage", ["a bit", "cut short", "missing", "a folder"])
def test_a_damaged_file_is_one_clear_line(
    damage: str, command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "digits.safetensors"
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(contents if damage == "a bit" else contents[:-8])
    assert run(*command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert "install equicert again" in line


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"digits": {}}', '{"digits": 1}', '{"digits": {"size": 3}}']
)
def test_a_damaged_index_is_an_error(text: str | None, folder: Path) -> None:
    (folder / "index.json").unlink()
    if text is not None:
        (folder / "index.json").write_text(text)
    with pytest.raises(ModelError, match="install equicert again"):
        zoo.path("digits")


def test_nothing_believes_the_index(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entered(folder, "boast", tiny(2.0), samples=360, correct=360, certified=360)
    data = str(folder / "data.npz")
    points(data, tiny(0.5))
    assert run("certify", "zoo:boast", "--data", data, "--eps", "0.1") == 1
    assert "not proved contracting" in capsys.readouterr().err


def test_an_installation_may_be_read_only(folder: Path, tmp_path: Path) -> None:
    def state() -> dict[Path, tuple[int, int, int]]:
        found = [folder, *folder.rglob("*")]
        stats = {path: path.stat() for path in found}
        return {path: (s.st_mode, s.st_size, s.st_mtime_ns) for path, s in stats.items()}

    for path in folder.rglob("*"):
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        before = state()
        proofs = str(tmp_path / "proofs")
        assert run("certify", *DIGITS, "--limit", "2", "--certificates", proofs) == 0
        assert run("check", proofs, "--model", "zoo:digits") == 0
        assert run("zoo") == 0
        assert state() == before  # also where the user is root, whom no mode stops
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_the_listing_fits_a_terminal(
    columns: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a front of three convolutions, then an implicit block"
    for k in range(3):
        entered(folder, f"a-long-name-{k}", tiny(0.5), structure=long, parameters=123456789)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run("zoo") == 0
    said = capsys.readouterr().out
    tables, commands = said.split("zoo:a-long-name-0, trained by")
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= columns
    together = {40: 1, 60: 2, 100: 4}[columns]
    assert tables.count("hidden units") == -(-len(zoo.entries()) // together)
    entry = zoo.entries()["digits"]
    for text in (entry.trained, entry.measured):  # whole, to be copied
        assert f"  {text}" in commands.splitlines()
    for share in (entry.correct, entry.certified):
        assert f"{100 * share / entry.samples:.2f}" in tables


def test_a_model_is_shipped_by_one_command(folder: Path, tmp_path: Path) -> None:
    network = tiny(0.5)
    data, model = str(tmp_path / "data.npz"), str(tmp_path / "model.safetensors")
    points(data, network)
    save_model(model, network)
    given = ["--data", data, "--eps", "0.0", "--trained", "equicert train ...", "--structure", "I"]
    shipping.main(["tiny", model, *given, "--method", "lipschitz"])
    entry = zoo.entries()["tiny"]
    assert (entry.samples, entry.correct, entry.certified) == (9, 8, 8)
    assert (entry.units, entry.parameters, entry.method) == (3, 9 + 6 + 3 + 6 + 2, "lipschitz")
    assert load_model("zoo:tiny").digest == network.digest
    assert zoo.entries()["digits"] == ENTRIES["digits"]
    assert run(*shlex.split(entry.measured)[1:], "--quiet") == 0
    Path(model).write_bytes(bytes(shipping.MOST_BYTES))
    with pytest.raises(SystemExit, match="too many"):
        shipping.main(["tiny", model, *given])
    assert zoo.entries()["tiny"] == entry
    del folder
