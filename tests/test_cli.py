"""The commands as a person types them: what they write, and what they say of bad input."""

from __future__ import annotations

import errno
import functools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equicert
from command import run
from equicert.attacks import AutoAttack
from equicert.models import load_model, save_model
from equicert.stored import StoredNetwork

Arrays = dict[str, Any]


def arrays(n: int = 6, r: int = 3, q: int = 3, seed: int = 0) -> Arrays:
    """A small contracting ReLU network."""
    rng = np.random.default_rng(seed)
    T = rng.uniform(-1, 1, (n, n)) / n
    return {
        "W": T - np.diag(np.abs(T).sum(1)),
        "U": rng.normal(size=(n, r)),
        "b": rng.normal(size=n),
        "C": rng.normal(size=(q, n)),
        "c": rng.normal(size=q),
    }


def data(network: Arrays, samples: int = 12, seed: int = 1) -> Arrays:
    """Points of the unit cube with the labels that the network gives them."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(samples, network["U"].shape[1]))
    import torch

    y = StoredNetwork.from_arrays(**network).predict(torch.from_numpy(x)).argmax(1).numpy()
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "domain": np.array([0.0, 1.0])}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with net.npz and data.npz in it, and the process inside."""
    monkeypatch.chdir(tmp_path)
    network = arrays()
    np.savez("net.npz", activation="relu", **network)
    np.savez("data.npz", **data(network))
    return tmp_path


def test_certify_writes_a_line_a_sample_and_a_summary(here: Path) -> None:
    assert run("certify", "net.npz", "--data", "data.npz", "--eps", "0.01", "--out", "v") == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(12))
    fields = ["index", "label", "predicted", "status", "margin", "method", "reason", "seconds"]
    assert all(set(fields) == set(line) for line in lines)
    summary = json.loads((here / "v/summary.json").read_text())
    certified = sum(line["status"] == "certified" for line in lines)
    assert summary["certified_accuracy"] == certified / 12
    assert certified > 0
    keys = "model data_digest eps domain method samples clean_accuracy unknown seconds versions"
    assert set(keys.split()) <= set(summary)
    assert summary["domain"] == [0.0, 1.0]


def test_verdicts_agree_with_the_library(here: Path) -> None:
    import torch

    assert run("certify", "net.npz", "--data", "data.npz", "--eps", "0.05", "--out", "v") == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    held = np.load("data.npz")
    verdicts = equicert.certify(
        StoredNetwork.from_arrays(**arrays()),
        torch.from_numpy(held["x_test"]),
        torch.from_numpy(held["y_test"]),
        0.05,
        domain=(0.0, 1.0),
    )
    assert [v.status for v in verdicts] == [line["status"] for line in lines]


def test_resume_continues_after_a_torn_line(here: Path) -> None:
    words = ["certify", "net.npz", "--data", "data.npz", "--eps", "0.01", "--out", "v"]
    assert run(*words) == 0
    path = here / "v/verdicts.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:5]) + whole[5][:10])
    (here / "v/summary.json").unlink()
    assert run(*words, "--resume") == 0
    again = path.read_bytes().splitlines(keepends=True)
    assert again[:5] == whole[:5]
    strip = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole]
    assert [
        {k: v for k, v in json.loads(line).items() if k != "seconds"} for line in again
    ] == strip
    assert json.loads((here / "v/summary.json").read_text())["samples"] == 12


def test_radius_gives_the_whole_curve(here: Path) -> None:
    words = ["certify", "net.npz", "--data", "data.npz", "--radius", "--out", "v"]
    assert run(*words, "--largest", "0.5", "--resolution", "0.001") == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    for line in lines:
        eps = repr(line["radius"])
        assert 0 <= line["radius"] <= 0.5
        out = f"at{line['index']}"
        limit = str(line["index"] + 1)
        common = ["certify", "net.npz", "--data", "data.npz", "--limit", limit, "--quiet"]
        assert run(*common, "--eps", eps, "--out", out) == 0
        last = json.loads((here / out / "verdicts.jsonl").read_text().splitlines()[-1])
        assert last["status"] == "certified"
    curve = json.loads((here / "v/summary.json").read_text())["certified_accuracy_at"]
    shares = list(curve.values())
    assert len(shares) == 21
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    "words", ["--steps 10 --restarts 2", "--attack fgsm", "--attack autoattack --seed 3"]
)
def test_attack_never_breaks_a_certified_sample(
    words: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = functools.partial(AutoAttack, iterations=10, queries=20)
    monkeypatch.setattr("equicert.attacks.AutoAttack", short)
    common = ["net.npz", "--data", "data.npz", "--eps", "0.1", "--limit", "12"]
    assert run("certify", *common, "--out", "v") == 0
    assert run("attack", *common, *words.split(), "--out", "a") == 0
    proved = [json.loads(s) for s in (here / "v/verdicts.jsonl").read_text().splitlines()]
    attacked = [json.loads(s) for s in (here / "a/verdicts.jsonl").read_text().splitlines()]
    for verdict, attack in zip(proved, attacked, strict=True):
        assert not (verdict["status"] == "certified" and attack["status"] == "broken")
    summary = json.loads((here / "a/summary.json").read_text())
    unbroken = sum(a["status"] == "unbroken" for a in attacked)
    assert summary["robust_accuracy"] == unbroken / 12
    for name in ("forward_solves", "adjoint_solves"):
        assert summary[name] == pytest.approx(sum(a[name] for a in attacked))
        assert isinstance(summary[name], int)
    assert summary["forward_solves"] > summary["adjoint_solves"] >= 12


def test_bound_encloses_and_shows_its_proof(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert run("bound", "net.npz", "--center", "0.5,0.5,0.5", "--eps", "0.1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    [box] = found["boxes"]
    lower, upper = box["input"]["lower"], box["input"]["upper"]
    assert all(Fraction(a) <= Fraction(0.5) - Fraction(0.1) for a in lower)
    assert all(Fraction(a) >= Fraction(0.5) + Fraction(0.1) for a in upper)
    network = StoredNetwork.from_arrays(**arrays())
    corners = torch.from_numpy(np.random.default_rng(0).uniform(lower, upper, (200, 3)))
    y = network.predict(corners)
    assert bool((y >= torch.tensor(box["output"]["lower"])).all())
    assert bool((y <= torch.tensor(box["output"]["upper"])).all())
    assert found["proof"]["mu"] < 1
    np.save("lo.npy", np.array([lower]))
    (here / "hi.csv").write_text(",".join(map(repr, upper)) + "\n")
    files = ["--lower", "lo.npy", "--upper", "hi.csv"]
    assert run("bound", "net.npz", *files, "--json", "--out", "b") == 0
    assert json.loads(capsys.readouterr().out)["boxes"] == found["boxes"]
    assert json.loads((here / "b/bounds.json").read_text())["boxes"] == found["boxes"]


@pytest.mark.usefixtures("here")
def test_inspect_tells_the_conditions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "net.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    values = {c["name"]: c for c in found["conditions"]}
    W = arrays()["W"]
    assert math.isclose(values["||W||_inf"]["value"], np.abs(W).sum(1).max(), rel_tol=1e-12)
    best = values["mu_{inf,[eta]^-1}(W) at the best eta"]
    assert best["verdict"] == "holds"
    majorant = np.where(np.eye(6, dtype=bool), W, np.abs(W))
    abscissa = np.linalg.eigvals(majorant).real.max()
    assert abscissa - 1e-9 <= best["value"] < 1
    assert 0 < found["sampled"]["sup"] <= min(found["lipschitz"].values())
    assert 0 < found["sampled"]["l2"] <= min(found["lipschitz_l2"].values())
    assert run("inspect", "net.npz") == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("of 5 hold", "yes, proved", "/ from below", "l2 to l2"))


def test_inspect_takes_a_network_that_does_not_contract(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = arrays()
    network["W"] = network["W"] + 5 * np.eye(6)
    np.savez(here / "bad.npz", activation="relu", **network)
    assert run("inspect", "bad.npz") == 0
    shown = capsys.readouterr().out
    assert "0 of 5 hold" in shown
    assert "no Lipschitz bound applies" in shown
    assert "no unique fixed point is proved" in shown
    assert run("inspect", "bad.npz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sampled"]["sup"] is None


def test_train_then_certify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--hidden", "8", "--epochs", "2", "--batch-size", "4", "--threads", "1"]
    assert run("train", "--data", "data.npz", "--out", "t", *common) == 0
    assert run("certify", "t/model.safetensors", "--data", "data.npz") == 0
    assert "certified accuracy" in capsys.readouterr().out
    assert (here / "t/config.yaml").exists()
    assert len((here / "t/metrics.jsonl").read_text().splitlines()) == 2
    assert run("train", "--resume", "t", "--quiet") == 0
    capsys.readouterr()
    assert run("train", "--resume", "t", "--epochs", "3") == 2
    assert "leave out --epochs" in capsys.readouterr().err


def test_row_sum_weights_through_every_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", "row-sum", "--row-sum-bound", "0.5", "--hidden", "8", "--epochs", "2"]
    assert run("train", "--data", "data.npz", "--out", "t", "--threads", "1", *words) == 0
    model, common = "t/model.safetensors", ["--data", "data.npz", "--eps", "0.01", "--quiet"]
    for method in ("interval", "lipschitz", "sign-split"):
        out = f"v-{method}"
        assert run("certify", model, *common, "--method", method, "--out", out) == 0
        summary = json.loads((here / out / "summary.json").read_text())
        assert summary["method"] == method
        assert not {"not contracting", "not well-posed"} & set(summary["reasons"])
    assert run("attack", model, *common, "--steps", "3", "--out", "a") == 0
    capsys.readouterr()
    assert run("inspect", model, "--json") == 0
    found = {c["name"]: c["value"] for c in json.loads(capsys.readouterr().out)["conditions"]}
    assert found["lambda_pf(|W|)"] <= found["||W||_inf"] + 1e-9 <= 0.5 * (1 + 1e-6) + 1e-9


def test_a_network_on_which_the_sign_split_is_not_well_posed(here: Path) -> None:
    network = arrays()
    network["W"] = network["W"] - 2 * np.eye(6)
    np.savez("deep.npz", activation="relu", **network)
    np.savez("deep-data.npz", **data(network))
    words = ["certify", "deep.npz", "--data", "deep-data.npz", "--eps", "0.01", "--quiet"]
    assert run(*words, "--out", "v") == 0
    assert run(*words, "--method", "sign-split", "--out", "w") == 0
    summaries = [json.loads((here / out / "summary.json").read_text()) for out in ("v", "w")]
    assert summaries[0]["certified_accuracy"] > 0
    assert summaries[1]["reasons"] == {"not well-posed": 12}


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ((), "lipschitz"),
        (("--local",), "lipschitz-local"),
        (("--bound", "weighted"), "lipschitz-radius-weighted"),
        (("--bound=derived", "--per-margin"), "lipschitz-radius-derived-per-margin"),
        (("--bound", "row-sum"), "lipschitz-radius-row-sum"),
    ],
)
def test_verdicts_say_which_lipschitz_certificate_they_are(
    here: Path, words: tuple[str, ...], method: str
) -> None:
    how = ("--eps", "0.001", "--method", "lipschitz", *words, "--out", "v")
    assert run("certify", "net.npz", "--data", "data.npz", *how) == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} == {method}
    summary = json.loads((here / "v/summary.json").read_text())
    assert summary["method"] == method
    if method.endswith("row-sum"):  # this network's rows add up to more than 1
        assert summary["reasons"] == {"row sums": 12}
    else:
        assert summary["certified_accuracy"] > 0


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ((), "spectral"),
        (("--bound", "printed"), "spectral-at-point"),
        (("--bound", "lmi"), "spectral-lmi"),
        (("--bound", "printed", "--per-margin"), "spectral-at-point-per-margin"),
    ],
)
def test_verdicts_say_which_l2_certificate_they_are(
    here: Path, words: tuple[str, ...], method: str
) -> None:
    how = ("--eps", "0.001", "--method", "spectral", *words, "--out", "v")
    assert run("certify", "net.npz", "--data", "data.npz", *how) == 0
    assert json.loads((here / "v/summary.json").read_text())["method"] == method


def test_radii_by_the_lipschitz_bound(here: Path) -> None:
    how = ("--radius", "--method", "lipschitz", "--bound", "derived", "--per-margin", "--out", "v")
    assert run("certify", "net.npz", "--data", "data.npz", *how) == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    assert any(line["radius"] for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ("--local",),
        ("--bound", "weighted"),
        ("--per-margin",),
        ("--method", "lipschitz", "--per-margin"),
        ("--method", "lipschitz", "--bound", "derived", "--local"),
        ("--method", "lipschitz", "--bound", "printed"),
        ("--method", "spectral", "--bound", "weighted"),
        ("--method", "spectral", "--per-margin"),
        ("--method", "spectral", "--bound", "lmi", "--per-margin"),
    ],
)
def test_settings_of_another_certificate_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    del here
    assert run("certify", "net.npz", "--data", "data.npz", *words) == 2
    error = capsys.readouterr().err
    assert "is not a setting of this certificate" in error
    assert error.count("\n") == 1


def test_train_by_a_lipschitz_bound(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--hidden", "4", "--epochs", "1", "--batch-size", "4", "--threads", "1", "--quiet"]
    how = ["--preset", "lipschitz-published", "--lipschitz-bound", "derived"]
    assert run("train", "--data", "data.npz", "--out", "t", *common, *how) == 0
    [line] = (here / "t/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["lipschitz_bound"] > 0
    assert run("train", "--data", "data.npz", "--out", "u", *common, *how, "--kappa", "1") == 2
    assert "kappa belongs to recipe 'inclusion', not to 'lipschitz'" in capsys.readouterr().err
    assert run("train", "--data", "data.npz", "--out", "u", *common, "--recipe", "lipschitz",
               "--lipschitz-bound", "row-sum") == 1  # fmt: skip
    assert "||W||_inf < 1" in capsys.readouterr().err


def test_train_layers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--weights", "feed-forward", "--epochs", "2", "--batch-size", "4", "--threads", "1"]
    command = ["train", "--data", "data.npz", *common, "--quiet"]
    assert run(*command, "--out", "t", "--layers", "6,5") == 0
    assert load_model(here / "t/model.safetensors").states == 11
    assert run("train", "--resume", "t", "--quiet") == 0
    assert run(*command, "--out", "one", "--layers", "6") == 0
    assert load_model(here / "one/model.safetensors").states == 6
    for command in ("certify", "attack"):
        assert run(command, "t/model.safetensors", "--data", "data.npz") == 0
    assert run("inspect", "t/model.safetensors") == 0
    assert "mu_2(W)" in capsys.readouterr().out


def test_options_come_from_a_config_file(here: Path) -> None:
    (here / "c.yaml").write_text("data: data.npz\neps: 0.02\nmethod: lipschitz\nout: v\n")
    assert run("certify", "net.npz", "--config", "c.yaml") == 0
    summary = json.loads((here / "v/summary.json").read_text())
    assert (summary["eps"], summary["method"]) == (0.02, "lipschitz")


def _model(change: Callable[[Arrays], None], **more: Any) -> Callable[[], None]:
    def write() -> None:
        network = arrays()
        change(network)
        np.savez("bad.npz", **({"activation": "relu"} | more), **network)

    return write


def _data(change: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    def write() -> None:
        held = dict(data(arrays()))
        change(held)
        np.savez("bad.npz", **held)

    return write


def _truncate() -> None:
    whole = Path("data.npz").read_bytes()
    Path("bad.npz").write_bytes(whole[: len(whole) // 2])


def _tamper() -> None:
    save_model(Path("bad.safetensors"), StoredNetwork.from_arrays(**arrays()), None)
    content = bytearray(Path("bad.safetensors").read_bytes())
    content[-3] ^= 1
    Path("bad.safetensors").write_bytes(bytes(content))


def _other_run() -> None:
    assert run("certify", "net.npz", "--data", "data.npz", "--eps", "0.3", "--out", "v") == 0


def _nan_in_first(name: str) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        held[name] = held[name].copy()
        held[name].flat[0] = np.nan

    return change


CERTIFY = "certify net.npz --data data.npz --out v"
BAD_MODEL = "certify bad.npz --data data.npz --out v"
BAD_DATA = "certify net.npz --data bad.npz --out v"


def _nothing() -> None:
    pass


BAD_INPUT: dict[str, tuple[Callable[[], None], str, str]] = {
    # what is wrong: (how it is made, the command, what the message names)
    "no such model": (_nothing, "certify none.npz --data data.npz --out v", "none.npz"),
    "no such data": (_nothing, "certify net.npz --data none.npz --out v", "none.npz"),
    "unknown data": (_nothing, "certify net.npz --data mnits --out v", "mnist"),
    "truncated data": (_truncate, BAD_DATA, "bad.npz"),
    "tampered model": (_tamper, "certify bad.safetensors --data data.npz --out v", "digest"),
    "wrong shape": (_model(lambda a: a.update(b=a["b"][:-1])), BAD_MODEL, "b must have shape"),
    "wrong dtype": (_model(lambda a: a.update(c=a["c"].astype(int))), BAD_MODEL, "int64"),
    "missing tensor": (_model(lambda a: a.pop("C")), BAD_MODEL, "C"),
    "unknown tensor": (_model(lambda a: a.update(V=a["b"])), BAD_MODEL, "V"),
    "NaN weight": (_model(_nan_in_first("W")), BAD_MODEL, "NaN"),
    "infinite weight": (_model(lambda a: a.update(c=a["c"] * np.inf)), BAD_MODEL, "inf"),
    "NaN input": (_data(_nan_in_first("x_test")), BAD_DATA, "nan"),
    "not contracting": (
        _model(lambda a: a.update(W=a["W"] + 2 * np.eye(6))),
        BAD_MODEL,
        "not proved contracting",
    ),
    "SiLU": (_model(lambda _: None, activation="silu"), BAD_MODEL, "silu"),
    "GELU": (_model(lambda _: None, activation="gelu"), BAD_MODEL, "gelu"),
    "unknown activation": (_model(lambda _: None, activation="relo"), BAD_MODEL, "'relu'"),
    "negative eps": (_nothing, CERTIFY + " --eps -0.1", "eps must be finite and >= 0"),
    "NaN eps": (_nothing, CERTIFY + " --eps nan", "--eps: Expected a finite number, got nan"),
    "infinite eps": (_nothing, CERTIFY + " --eps inf", "--eps: Expected a finite number, got inf"),
    "eps is a word": (_nothing, CERTIFY + " --eps small", "eps"),
    "inverted box": (_nothing, "bound net.npz --lower 1,1,1 --upper 0,2,2 --out v", "inverted"),
    "half a box": (_nothing, "bound net.npz --lower 1,1,1 --out v", "--upper"),
    "box of another width": (_nothing, "bound net.npz --center 1,1 --eps 0.1", "fit the model"),
    "point outside": (_nothing, CERTIFY + " --domain 0.4,0.6", "outside its domain"),
    "inverted domain": (_nothing, CERTIFY + " --domain 1,0", "inverted"),
    "domain is a word": (_nothing, CERTIFY + " --domain all", "lo,hi"),
    "label out of range": (
        _data(lambda d: d.update(y_test=d["y_test"] + 3)),
        BAD_DATA,
        "labels up to",
    ),
    "negative label": (_data(lambda d: d.update(y_test=d["y_test"] - 5)), BAD_DATA, "label"),
    "empty data": (
        _data(lambda d: d.update(x_test=d["x_test"][:0], y_test=d["y_test"][:0])),
        BAD_DATA,
        "empty",
    ),
    "data of another width": (
        _data(lambda d: d.update(x_test=d["x_test"][:, :2], x_train=d["x_train"][:, :2])),
        BAD_DATA,
        "does not fit the model",
    ),
    "folder of another run": (_other_run, CERTIFY + " --eps 0.1", "another run"),
    "same run without --resume": (_other_run, CERTIFY + " --eps 0.3", "resume"),
    "unknown option": (_nothing, CERTIFY + " --epz 0.1", "did you mean 'eps'?"),
    "unknown command": (_nothing, "certfy net.npz", "certify"),
    "unknown method": (_nothing, CERTIFY + " --method box", "interval"),
    "misspelt method": (
        _nothing,
        CERTIFY + " --method sign_split",
        "'complete', 'auto'], got sign_split",
    ),
    "limit 0": (_nothing, CERTIFY + " --limit 0", "limit must be at least 1"),
    "batch size 0": (_nothing, CERTIFY + " --batch-size 0", "batch_size must be at least 1"),
    "resume without folder": (
        _nothing,
        "certify net.npz --data data.npz --resume",
        "--out",
    ),
    "gamma 1": (_nothing, "train --data data.npz --out v --gamma 1", "gamma"),
    "gamma of row-sum weights": (
        _nothing,
        "train --data data.npz --out v --weights row-sum --gamma 0.5",
        "gamma belongs to weights 'contracting', not to 'row-sum'; leave it out",
    ),
    "bound of contracting weights": (
        _nothing,
        "train --data data.npz --out v --row-sum-bound 0.5",
        "row_sum_bound belongs to weights 'row-sum', not to 'contracting'; leave it out",
    ),
    "bound of 1": (
        _nothing,
        "train --data data.npz --out v --weights row-sum --row-sum-bound 1",
        "row_sum_bound must be in (0, 1), got 1.0",
    ),
    "unknown weights": (
        _nothing,
        "train --data data.npz --out v --weights rowsum",
        "'lben'], got rowsum",
    ),
    "no layers": (_nothing, "train --data data.npz --out v --weights feed-forward", "need layers"),
    "layers of other weights": (
        _nothing,
        "train --data data.npz --out v --layers 6,5",
        "layers belongs to weights 'feed-forward', not to 'contracting'",
    ),
    "layers that are none": (
        _nothing,
        "train --data data.npz --out v --weights feed-forward --layers 6,x",
        "layers must be integers >= 1 separated by commas, such as 100,75,50, got '6,x'",
    ),
    "layers and hidden": (
        _nothing,
        "train --data data.npz --out v --weights feed-forward --layers 6,5 --hidden 7",
        "hidden belongs to weights 'contracting', not to 'feed-forward'",
    ),
    "no epochs": (_nothing, "train --data data.npz --out v --epochs 0", "epochs"),
    "kappa 2": (_nothing, "train --data data.npz --out v --kappa 2", "kappa"),
    "training activation": (
        _nothing,
        "train --data data.npz --out v --activation gelu",
        "gelu",
    ),
    "no such device": (_nothing, "train --data data.npz --out v --device gpu7", "gpu7"),
    "nothing to train on": (_nothing, "train --out v", "--data"),
    "nothing to resume": (_nothing, "train --resume nowhere", "nowhere"),
    "attack steps 0": (
        _nothing,
        "attack net.npz --data data.npz --steps 0 --out v",
        "steps",
    ),
    "steps of autoattack": (
        _nothing,
        "attack net.npz --data data.npz --attack autoattack --steps 10 --out v",
        "--steps is not a setting of autoattack, which takes --seed;",
    ),
    "step size of autoattack": (
        _nothing,
        "attack net.npz --data data.npz --attack autoattack --step-size 0.1 --out v",
        "--step_size is not a setting of autoattack",
    ),
    "restarts of autoattack": (
        _nothing,
        "attack net.npz --data data.npz --attack autoattack --restarts 2 --out v",
        "--restarts is not a setting of autoattack",
    ),
    "seed of fgsm": (
        _nothing,
        "attack net.npz --data data.npz --attack fgsm --seed 1 --out v",
        "--seed is not a setting of fgsm, which takes none",
    ),
    "no such attack": (
        _nothing,
        "attack net.npz --data data.npz --attack cw --out v",
        "['pgd', 'fgsm', 'autoattack'], got cw",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, command, named = BAD_INPUT[name]
    make()
    before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert run(*command.split(), "--quiet") != 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert named in said.err
    assert said.out == ""
    after = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
    assert after == before


def test_unknown_key_in_a_config_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "c.yaml").write_text("data: data.npz\nmehtod: interval\n")
    assert run("certify", "net.npz", "--config", "c.yaml") != 0
    said = capsys.readouterr().err
    assert "did you mean 'method'?" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses(
    code: int, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.open

    def refuse(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if "w" in mode or "a" in mode:
            raise OSError(code, errno.errorcode[code])
        return plain(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert run(*CERTIFY.split(), "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "choose" in said or "free some space" in said
    assert not (here / "v/verdicts.jsonl").exists()
