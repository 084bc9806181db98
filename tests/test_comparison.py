"""Models side by side: the numbers of the single commands, and a reason where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command import run
from equicert.attacks import PGD, AttackResult
from equicert.bounds import Interval, Spectral
from equicert.certification import certify
from equicert.comparison import (
    METHODS,
    Compared,
    Named,
    compare,
    refuse_contradictions,
    short_names,
)
from equicert.comparison.tables import texts
from equicert.data import DataSet, load_data
from equicert.errors import InputError, NotConvergedError, OutputError
from equicert.experiments.verdicts import ContradictionError
from equicert.models import save_model
from equicert.stored import StoredNetwork

Arrays = dict[str, Any]

COMMANDS = {  # a method's name in verdicts: how `equicert certify` is told
    "interval": "",
    "sign-split": "--method sign-split",
    "lipschitz": "--method lipschitz",
    "lipschitz-local": "--method lipschitz --local",
    "lipschitz-radius-derived-per-margin": "--method lipschitz --bound derived --per-margin",
    "lipschitz-radius-weighted": "--method lipschitz --bound weighted",
    "lipschitz-radius-row-sum": "--method lipschitz --bound row-sum",
    "spectral": "--method spectral",
    "spectral-lmi": "--method spectral --bound lmi",
}


def arrays(n: int = 6, seed: int = 5) -> Arrays:
    """Every condition holds: contracting, monotone, small rows."""
    rng = np.random.default_rng(seed)
    return {
        "W": rng.uniform(-0.5, 0.5, (n, n)) / n,
        "U": rng.normal(size=(n, 3)) * (rng.uniform(size=(n, 3)) < 0.7),
        "b": rng.normal(size=n),
        "C": rng.normal(size=(3, n)),
        "c": np.array([0.0, 0.1, 0.0]),
    }


def with_weight(W: np.ndarray) -> Arrays:
    return arrays(len(W)) | {"W": W}


def deep() -> Arrays:
    """Contracting, but lambda_pf(|W|) and ||W||_inf are above 1."""
    return with_weight(arrays()["W"] - 3 * np.eye(6))


def skew() -> Arrays:
    """Monotone only: a large skew-symmetric part."""
    A = np.triu(np.full((6, 6), 2.0), 1)
    return with_weight(A - A.T)


def sheer() -> Arrays:
    """Contracting only: one long product, not monotone with Lambda = 1."""
    W = np.zeros((6, 6))
    W[5, 0] = 8.0
    return with_weight(W)


def hopeless() -> Arrays:
    return with_weight(3 * np.eye(6))


NETWORKS = {"easy": arrays, "deep": deep, "skew": skew, "sheer": sheer, "hopeless": hopeless}


def data_of(network: Arrays, samples: int = 12) -> Arrays:
    """Points of the unit cube with this network's labels, but for the last one."""
    x = np.random.default_rng(1).uniform(size=(samples, 3))
    y = StoredNetwork.from_arrays(**network).predict(torch.from_numpy(x)).argmax(1).numpy()
    y[-1] = (y[-1] + 1) % 3
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "domain": np.array([0.0, 1.0])}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of each kind and data.npz in it, and the process inside."""
    monkeypatch.chdir(tmp_path)
    for name, make in NETWORKS.items():
        np.savez(f"{name}.npz", activation="relu", **make())
    np.savez("data.npz", **data_of(arrays()))
    return tmp_path


@pytest.fixture
def data(here: Path) -> DataSet:
    return load_data(str(here / "data.npz"))


def named(*names: str) -> list[Named]:
    return [Named(name, StoredNetwork.from_arrays(**NETWORKS[name]())) for name in names]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A file of verdicts without the times."""
    held = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in held]


def applicable(found: Compared) -> set[str]:
    return {c.method for c in found.certificates if c.accuracy is not None}


def test_the_numbers_are_those_of_the_single_commands(here: Path) -> None:
    names = ("easy", "deep", "skew")
    files = [f"{name}.npz" for name in names]
    common = ["--data", "data.npz", "--eps", "0.02", "--quiet"]
    assert run("compare", *files, *common, "--out", "o") == 0
    held = json.loads((here / "o/comparison.json").read_text())
    for number, name in enumerate(names, 1):
        model = held["models"][number - 1]
        folder = here / f"o/{number}-{name}"
        assert run("attack", f"{name}.npz", *common, "--out", f"{name}-attack") == 0
        mine = here / f"{name}-attack"
        assert lines_of(folder / "pgd/verdicts.jsonl") == lines_of(mine / "verdicts.jsonl")
        summary = json.loads((mine / "summary.json").read_text())
        assert model["attack"]["accuracy"] == summary["robust_accuracy"]
        assert model["clean"] == summary["clean_accuracy"]
        assert model["attack"]["attacked"] == round(12 * summary["clean_accuracy"])
        for certified in model["certificates"]:
            out, how = f"{name}-{certified['method']}", COMMANDS[certified["method"]].split()
            assert run("certify", f"{name}.npz", *common, *how, "--out", out) == 0
            summary = json.loads((here / out / "summary.json").read_text())
            if certified["why_not"]:
                assert summary["certified_accuracy"] == 0
                [reason] = summary["reasons"]
                assert reason != "margin"
                continue
            assert certified["accuracy"] == summary["certified_accuracy"]
            assert certified["reasons"] == summary["reasons"]
            verdicts = lines_of(folder / certified["method"] / "verdicts.jsonl")
            assert verdicts == lines_of(here / out / "verdicts.jsonl")
    assert held["models"][0]["best"] > 0


def test_a_method_that_does_not_apply_says_why(data: DataSet) -> None:
    found = {m.name: m for m in compare(named(*NETWORKS), data, 0.01)}
    every = {method.name for method in METHODS}
    assert applicable(found["easy"]) == every
    assert applicable(found["deep"]) == every - {"sign-split", "lipschitz-radius-row-sum"}
    assert applicable(found["skew"]) == {"spectral", "spectral-lmi"}
    assert "spectral" not in applicable(found["sheer"])
    assert applicable(found["hopeless"]) == set()
    why = {name: {c.method: c.why_not for c in model.certificates} for name, model in found.items()}
    assert "lambda_pf(|W|) < 1" in why["deep"]["sign-split"]
    assert "||W||_inf < 1" in why["deep"]["lipschitz-radius-row-sum"]
    assert "not proved contracting: mu(W) = 10" in why["skew"]["interval"]
    assert "not proved monotone: mu_2(W) = 4" in why["sheer"]["spectral"]
    assert all("mu(W) = 3, and not monotone" in text for text in why["hopeless"].values())
    assert [(m.contracting, m.monotone) for m in found.values()] == [
        (True, True),
        (True, True),
        (False, True),
        (True, False),
        (False, False),
    ]
    for model in found.values():
        for certified in model.certificates:
            absent = certified.accuracy is None
            assert absent == bool(certified.why_not) == (certified.seconds is None)
    assert found["hopeless"].clean is None
    assert found["hopeless"].attack.accuracy is None
    assert found["hopeless"].best is None


def test_a_method_applies_whatever_the_first_sample_is(data: DataSet) -> None:
    """The network may well be wrong there, which a verdict puts before every reason."""
    wrong = replace(data, y_test=(data.y_test + 1) % 3)
    [before], [after] = (compare(named("deep"), d, 0.01) for d in (data, wrong))
    assert applicable(before) == applicable(after)
    assert after.clean is not None
    assert after.clean < 0.5


def test_parameters_are_counted(data: DataSet) -> None:
    [found] = compare(named("easy"), data, 0.01, methods=[Interval()])
    held = arrays().values()
    assert found.parameters == sum(array.size for array in held) == 6 * 6 + 6 * 3 + 6 + 3 * 6 + 3
    assert found.nonzero == sum(np.count_nonzero(array) for array in held) < found.parameters
    assert (found.states, found.activation) == (6, "relu")


def test_an_attack_that_cannot_solve_leaves_the_rest(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> AttackResult:
        raise NotConvergedError("adjoint solve", 3, 12, 1.0, "no advice")

    monkeypatch.setattr(PGD, "run", fail)
    [found] = compare(named("easy"), data, 0.01, methods=[Interval()])
    assert found.attack.why_not == "not attacked: 3 of 12 samples missed the tolerance of a solve"
    assert found.attack.accuracy is None
    assert found.clean == 11 / 12
    assert found.best is not None


def _all_broken(self: PGD, network: StoredNetwork, x: Any, labels: Any, *rest: Any) -> AttackResult:
    del self, rest
    ones = torch.ones(len(x))
    other = (labels + 1) % network.outputs
    return AttackResult(("broken",) * len(x), x, labels, other, -ones, ones, ones)


def test_a_contradiction_is_an_error_after_everything_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PGD, "run", _all_broken)
    files = ["easy.npz", "deep.npz"]
    assert run("compare", *files, "--data", "data.npz", "--eps", "0.001", "--out", "o") == 1
    said = capsys.readouterr()
    assert "pgd (model easy, certified by interval) broke it at eps = 0.001" in said.err
    assert "interval (14)" in said.out
    held = json.loads((here / "o/comparison.json").read_text())
    assert held["certified_yet_broken"] > 0
    accused = {one["method"] for one in held["models"][1]["contradictions"]}
    assert "pgd (model deep, certified by lipschitz)" in accused
    assert f"Certified and yet broken: {held['certified_yet_broken']} (" in said.out
    assert (here / "o/comparison.md").exists()


def test_no_contradiction_among_honest_methods(data: DataSet) -> None:
    found = compare(named(*NETWORKS), data, 0.05)
    refuse_contradictions(found)
    invented = replace(found[0], contradictions=compare_broken(data))
    with pytest.raises(ContradictionError, match="certified by interval"):
        refuse_contradictions([found[1], invented])


def compare_broken(data: DataSet) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGD, "run", _all_broken)
        [found] = compare(named("easy"), data, 0.001, methods=[Interval()])
    return found.contradictions


def _without_times(held: dict[str, Any]) -> dict[str, Any]:
    for model in held["models"]:
        for part in (model["attack"], *model["certificates"]):
            part["seconds"] = None
    return held


def test_resume_continues_where_a_kill_stopped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "easy.npz", "skew.npz", "--data", "data.npz", "--out", "o", "--quiet"]
    words += ["--eps", "0.02"]
    assert run(*words) == 0
    whole = json.loads((here / "o/comparison.json").read_text())
    (here / "o/comparison.json").unlink()
    shutil.rmtree(here / "o/2-skew")
    torn = here / "o/1-easy/spectral/verdicts.jsonl"
    before = lines_of(torn)
    torn.write_bytes(torn.read_bytes()[:-400])
    (torn.parent / "summary.json").unlink()
    done = here / "o/1-easy/interval/verdicts.jsonl"
    kept = done.read_bytes()
    assert run(*words) == 2
    assert "resume" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    assert done.read_bytes() == kept
    assert lines_of(torn) == before
    again = json.loads((here / "o/comparison.json").read_text())
    assert _without_times(again) == _without_times(whole)
    assert run(*words, "--resume", "--eps", "0.03") == 2
    assert "holds another run: eps is 0.02 there and 0.03 here" in capsys.readouterr().err


def test_json_and_page_hold_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["easy.npz", "sheer.npz", "--data", "data.npz", "--eps", "0.02", "--limit", "5"]
    assert run("compare", *words, "--json", "--out", "o") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((here / "o/comparison.json").read_text())
    assert set(printed) == {
        "conditions", "models", "certified_yet_broken", "machine", "versions"
    }  # fmt: skip
    conditions = printed["conditions"]
    assert (conditions["samples"], conditions["eps"], conditions["domain"]) == (5, 0.02, [0, 1])
    fields = "name digest activation states parameters nonzero contracting monotone clean attack"
    for model in printed["models"]:
        assert set(model) == {*fields.split(), "certificates", "contradictions", "best"}
        assert set(model["attack"]) == {"accuracy", "attacked", "seconds", "why_not"}
        assert [c["method"] for c in model["certificates"]] == list(COMMANDS)
        for certified in model["certificates"]:
            assert set(certified) == {"method", "accuracy", "seconds", "reasons", "why_not"}
    page = (here / "o/comparison.md").read_text()
    for model in printed["models"]:
        shares = [c["accuracy"] for c in model["certificates"] if c["accuracy"] is not None]
        assert all(f"{100 * share:.2f}" in page for share in [*shares, model["clean"]])
        assert all(c["why_not"] in page for c in model["certificates"])


def test_the_table_fits_a_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = here / ("a-name-that-goes-on-and-on" * 3 + ".npz")
    shutil.copy("easy.npz", long)
    files = [*(f"{name}.npz" for name in NETWORKS), long.name]
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run("compare", *files, "--data", "data.npz", "--eps", "0.02", "--limit", "3") == 0
        said = capsys.readouterr().out.split("\n[1]")[0].splitlines()
        assert max(len(line.rstrip()) for line in said) <= columns
        tables = sum("interval (14)" in line for line in said)
        assert tables == {60: 3, 100: 2}[columns]


def test_nothing_is_written_without_a_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert run("compare", "easy.npz", "--data", "data.npz", "--eps", "0.02") == 0
    assert "Certified and yet broken: 0" in capsys.readouterr().out
    assert sorted(here.rglob("*")) == before


def test_the_best_certificate_stands_out(data: DataSet) -> None:
    found = compare(named("easy", "skew"), data, 0.02)
    rows = {row[0]: row[1:] for row in texts(found).rows}
    starred = [name for name, cells in rows.items() if "*" in cells[0]]
    assert "interval (14)" in starred
    best = found[0].best
    assert best is not None
    assert all(f"{100 * best:.2f}*" in rows[name][0] for name in starred)
    none = replace(found[0], certificates=tuple(
        replace(c, accuracy=0.0) for c in found[0].certificates
    ))  # fmt: skip
    assert not any("*" in row[1] for row in texts([none]).rows)


def test_samples_without_a_verdict_are_not_passed_over(data: DataSet) -> None:
    hasty = Spectral(max_steps=1)
    [found] = compare(named("easy"), data, 0.02, methods=[hasty])
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    verdicts = certify(named("easy")[0].network, x, y, 0.02, domain=data.domain, method=hasty)
    left = sum(verdict.reason == "unconverged" for verdict in verdicts)
    assert left > 0
    table = texts([found])
    assert table.rows[-1][1].endswith("[1]")
    assert table.notes == (f"easy: samples left unknown by spectral: {left} for unconverged",)


def test_activations_are_for_models_that_name_none(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("silent.npz", **arrays())
    common = ["--data", "data.npz", "--eps", "0.02", "--json"]
    assert run("compare", "easy.npz", "silent.npz", *common, "--activation", "tanh") == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["activation"] for model in models] == ["relu", "tanh"]
    assert run("compare", "easy.npz", *common, "--activation", "tanh") == 2
    assert "leave it out" in capsys.readouterr().err
    assert run("compare", "easy.npz", "silent.npz", *common) == 2
    assert "silent.npz does not name its activation" in capsys.readouterr().err
    del here


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/model.safetensors"], ["a"]),
        (["a/model.safetensors", "b/model.safetensors", "c.npz"], ["a", "b", "c"]),
        (["s0/train/model.safetensors", "s1/train/model.safetensors"], ["s0/train", "s1/train"]),
        (["x/a.npz", "y/a.npz", "b.npz"], ["x/a", "y/a", "b"]),
        (["a.npz", "a.safetensors"], ["a.npz", "a.safetensors"]),
        (["a/model.safetensors", "a.npz"], ["model.safetensors", "a.npz"]),
        (["a.v1.npz", "a.v2.npz"], ["a.v1", "a.v2"]),
        (["zoo:a-0.1", "zoo:a-0.3", "a-0.1.npz"], ["zoo:a-0.1", "zoo:a-0.3", "a-0.1"]),
    ],
)
def test_short_names(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names
    assert short_names(paths[::-1]) == names[::-1]


def test_names_must_differ(data: DataSet) -> None:
    with pytest.raises(InputError, match="two models are called 'easy'"):
        compare(named("easy", "easy"), data, 0.1)
    with pytest.raises(InputError, match="no model to compare"):
        compare([], data, 0.1)


def test_a_folder_of_something_else(here: Path, data: DataSet) -> None:
    with pytest.raises(OutputError, match="is not empty"):
        compare(named("easy"), data, 0.1, out=here)


def _nothing() -> None:
    pass


def _other_width() -> None:
    wide: Arrays = arrays() | {"U": np.ones((6, 4))}
    np.savez("wide.npz", activation="relu", **wide)


def _one_output() -> None:
    narrow: Arrays = arrays() | {"C": np.ones((1, 6)), "c": np.zeros(1)}
    np.savez("narrow.npz", activation="relu", **narrow)
    held: Arrays = dict(np.load("data.npz"))
    held |= {name: 0 * held[name] for name in ("y_train", "y_test")}
    np.savez(Path("data.npz"), **held)


def _corrupted() -> None:
    save_model("broken.safetensors", StoredNetwork.from_arrays(**arrays()))
    content = bytearray(Path("broken.safetensors").read_bytes())
    content[-3] ^= 1
    Path("broken.safetensors").write_bytes(bytes(content))


def _truncated() -> None:
    Path("half.npz").write_bytes(Path("easy.npz").read_bytes()[:300])


BAD_INPUT: dict[str, tuple[Callable[[], None], str, str]] = {
    # what is wrong: (how it is made, the command, what the message names)
    "no model": (_nothing, "--data data.npz", "models"),
    "missing file": (_nothing, "easy.npz none.npz --data data.npz", "none.npz does not exist"),
    "corrupted file": (_corrupted, "easy.npz broken.safetensors --data data.npz", "digest"),
    "truncated file": (_truncated, "easy.npz half.npz --data data.npz", "half.npz"),
    "twice": (_nothing, "easy.npz ./easy.npz --data data.npz", "easy.npz is given 2 times"),
    "width": (
        _other_width,
        "easy.npz wide.npz --data data.npz",
        "model wide: the data does not fit the model: 'data.npz' has 3 inputs a sample",
    ),
    "one output": (_one_output, "narrow.npz --data data.npz", "model narrow has one output"),
    "no data": (_nothing, "easy.npz", "data"),
    "unknown data": (_nothing, "easy.npz --data mnits", "mnist"),
    "negative eps": (
        _nothing,
        "easy.npz --data data.npz --eps -0.1",
        "eps must be finite and >= 0",
    ),
    "NaN eps": (_nothing, "easy.npz --data data.npz --eps nan", "--eps: Expected a finite"),
    "limit 0": (_nothing, "easy.npz --data data.npz --limit 0", "limit must be at least 1"),
    "domain": (_nothing, "easy.npz --data data.npz --domain 1,0", "inverted"),
    "point outside": (_nothing, "easy.npz --data data.npz --domain 0.4,0.6", "outside its domain"),
    "threads 0": (_nothing, "easy.npz --data data.npz --threads 0", "threads must be at least 1"),
    "resume what": (_nothing, "easy.npz --data data.npz --resume", "--out"),
    "unknown option": (_nothing, "easy.npz --data data.npz --epz 1", "did you mean 'eps'?"),
    "activation": (_nothing, "easy.npz --data data.npz --activation relu", "leave it out"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, command, said_of = BAD_INPUT[name]
    make()
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
    capsys.readouterr()
    out = [] if "--resume" in command else ["--out", "o"]
    assert run("compare", *command.split(), *out, "--quiet") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said_of in said.err
    assert said.out == ""
    assert {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()} == before
