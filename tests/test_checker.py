"""The checker agrees with the prover, and names what fails; it runs without anything installed."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from command import run
from equicert.boxes import Box
from equicert.checker import NotValidError, UnreadableError, check_folder
from equicert.errors import NotContractingError
from equicert.models import load_model, save_model
from equicert.stored import StoredNetwork
from networks import (
    ACTIVATIONS,
    CONTRACTING,
    HAIRLINE,
    NOT_CONTRACTING,
    Network,
    contracting_networks,
)
from proofs import Folder, Proof, prove, random_proofs

SOURCE = Path(__file__).parents[1] / "src" / "equicert" / "checker"


def _points(network: Network) -> np.ndarray:
    return np.linspace(0.0, 1.0, 3 * network.inputs).reshape(3, -1)


def _labelled(network: Network) -> bool:
    return network.outputs > 1


@pytest.mark.parametrize("domain", [None, (0.0, 1.0), (-np.inf, 1.0)], ids=str)
@pytest.mark.parametrize("name", [n for n, c in CONTRACTING.items() if _labelled(c)])
def test_what_the_prover_certifies_is_valid(
    name: str, domain: tuple[float, float] | None, tmp_path: Path
) -> None:
    network = CONTRACTING[name]
    for eps in (0.0, 1e-3, 0.1):
        for label in (0, 1):
            folder, holds = prove(network, _points(network), [label] * 3, eps, domain)
            report = check_folder(*folder.write(tmp_path))
            assert report.certificates == sum(holds)
            if any(holds):
                assert report.radii == (eps, eps)
            shown = None if domain is None else (domain[0], domain[1])
            assert (report.domain, report.compared) == (shown, False)


@pytest.mark.parametrize("name", [n for n, c in HAIRLINE.items() if c.contracting])
def test_networks_at_a_hair_of_contracting(name: str, tmp_path: Path) -> None:
    network = HAIRLINE[name]
    stored = StoredNetwork.from_arrays(*network.arrays)
    try:
        folder, holds = prove(stored, _points(network), [0] * 3, 1e-3)
    except NotContractingError:
        pytest.skip("true, and not proved in float64")
    assert check_folder(*folder.write(tmp_path)).certificates == sum(holds)


NO_ETA = NOT_CONTRACTING | {n: c for n, c in HAIRLINE.items() if not c.contracting}


@pytest.mark.parametrize("name", NO_ETA)
def test_no_eta_serves_where_none_exists(name: str, tmp_path: Path) -> None:
    network = NO_ETA[name]
    n, rng = network.states, np.random.default_rng(0)
    arrays = dict(zip("WUbCc", network.arrays, strict=True))
    for eta in (np.ones(n), *(10.0 ** rng.uniform(-3, 3, (5, n)))):
        folder = Folder(arrays, "relu", eta, np.zeros((1, network.inputs)), [])
        with pytest.raises(NotValidError, match=r"eta: \(M eta\)_i >= eta_i at i = "):
            check_folder(*folder.write(tmp_path))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_both_forms_of_boxes(activation: str, tmp_path: Path) -> None:
    by_radius, holds = random_proofs(activation)
    assert sum(holds) > 3
    assert check_folder(*by_radius.write(tmp_path)).certificates == sum(holds)
    x = torch.from_numpy(by_radius.inputs)
    box = Box(x - 0.01 * torch.rand_like(x), x + 0.02)
    network = load_model(by_radius.write(tmp_path)[1])
    by_ends, holds = prove(network, x, None, None, box=box)
    assert sum(holds) > 3
    report = check_folder(*by_ends.write(tmp_path))
    assert (report.certificates, report.radii) == (sum(holds), None)


@settings(max_examples=25)
@given(contracting_networks(), st.sampled_from([0.0, 1e-6, 0.05]))
def test_drawn_networks(tmp_path_factory: pytest.TempPathFactory, n: Network, eps: float) -> None:
    if _labelled(n):
        folder, holds = prove(n, _points(n), [0, 0, 1], eps)
        root = tmp_path_factory.mktemp("drawn")
        assert check_folder(*folder.write(root)).certificates == sum(holds)


def test_a_digest_is_the_library_s(tmp_path: Path) -> None:
    for activation in ("relu", "elu(0.5)", "leaky_relu(0.1)"):
        folder, _ = random_proofs(activation)
        path = folder.write(tmp_path)[1]
        assert load_model(path).digest == folder.digest()
        arrays = {k: np.asfortranarray(v) for k, v in folder.arrays.items()}
        np.savez(tmp_path / "model.npz", **arrays)  # type: ignore[arg-type]
        report = check_folder(tmp_path / "proofs", tmp_path / "model.npz", activation)
        assert report.model == folder.digest()


def test_models_as_the_library_writes_them(tmp_path: Path) -> None:
    folder, _ = random_proofs("tanh")
    where = folder.write(tmp_path)
    save_model(tmp_path / "again.safetensors", load_model(where[1]), {"note": "mine"})
    assert check_folder(where[0], tmp_path / "again.safetensors").certificates > 0
    folder.arrays = {k: v.astype(np.float32).astype(float) for k, v in folder.arrays.items()}
    network = StoredNetwork.from_arrays(*folder.arrays.values(), activation="tanh")
    single, holds = prove(network, folder.inputs, None, 0.01)
    save_model(tmp_path / "single.safetensors", network)  # as float32
    report = check_folder(single.write(tmp_path)[0], tmp_path / "single.safetensors")
    assert report.certificates == sum(holds) > 0


# What it says.


def _first(**changes: Callable[[Proof], object]) -> Callable[[Folder], None]:
    def change(folder: Folder) -> None:
        proof = deepcopy(folder.proofs[0])
        folder.proofs[0] = replace(proof, **{key: new(proof) for key, new in changes.items()})

    return change


def _last(folder: Folder) -> None:
    folder.proofs[-1].row = 1000


def _stated(**changes: object) -> Callable[[Folder], None]:
    return lambda folder: folder.header.update(changes)


def _shared(**changes: object) -> Callable[[Folder], None]:
    def change(folder: Folder) -> None:
        for name, value in changes.items():
            setattr(folder, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_shared(eta=np.array([1e-9, 1.0, 1.0, 1.0])), "eta: (M eta)_i >= eta_i at i = 0: "),
        (_shared(eta=np.array([1.0, 1.0, -1.0, 1.0])), "eta: "),
        (_shared(domain=([0.0], [0.25])), "outside the domain [0.0, 0.25]"),
        (_first(eps=lambda _: -0.0625), "row 0: eps is -0.0625"),
        (_first(eps=lambda _: 0.25), "row 0: neuron "),
        (_first(lo=lambda p: p.hi + 1), "row 0: neuron 0: lo = "),
        (_first(lo=lambda p: p.lo + np.inf), "row 0: a box of states has the entry "),
        (
            _first(ends=lambda _: (np.array([-np.inf, 0.0]), np.ones(2))),
            "row 0: an endpoint has the entry 0 = -inf",
        ),
        (_first(label=lambda _: 17), "row 0: label 17 of 3 outputs"),
        (_first(margins=lambda p: p.margins * 1.5), "row 0: the margin against "),
        (_first(margins=lambda p: -p.margins), "not positive"),
        (_first(margins=lambda p: p.margins * np.nan), "is nan, not positive"),
        (_last, "row 1000 of 8 inputs"),
        (_stated(inputs={"count": 8, "sha256": "0" * 64}), "does not have the digest claimed"),
        (_stated(model="0" * 64), "the certificates are about the model 000"),
        (_stated(n=99), "n does not agree"),
        (_stated(activation="identity"), "activation does not agree"),
    ],
)
def test_what_fails_is_named(change: Callable[[Folder], None], says: str, tmp_path: Path) -> None:
    folder, _ = random_proofs("relu", domain=(0.0, 1.0))
    change(folder)
    with pytest.raises(NotValidError) as caught:
        check_folder(*folder.write(tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_verdicts_need_their_certificates(tmp_path: Path) -> None:
    folder, holds = random_proofs("relu", (0.0, 1.0))
    where, model = folder.write(tmp_path)
    labels = _labels(folder)
    lines = [
        {"index": row, "status": "certified" if held else "unknown", "label": int(labels[row])}
        for row, held in enumerate(holds)
    ]
    run_file, path = where / "run.json", where / "verdicts.jsonl"

    def write(identity: Mapping[str, object]) -> None:
        run_file.write_text(json.dumps({"identity": identity}))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    same = {"model": folder.digest(), "data": "0" * 64, "domain": [[0.0, 0.0], 1.0]}
    write(same | {"eps": folder.proofs[0].eps})
    assert check_folder(where, model).certified == sum(holds)
    write(same | {"eps": 0.5})
    with pytest.raises(NotValidError, match=r"eps 0\.5; its certificate is for label"):
        check_folder(where, model)
    other = {"model": "another", "data": "1" * 64, "domain": None}
    for name, value in (*other.items(), ("domain", [0.0, 2.0]), ("domain", "all")):
        write(same | {name: value})
        with pytest.raises(NotValidError, match=f"about another {name}"):
            check_folder(where, model, verdicts=path)
    write({"model": folder.digest()})
    with pytest.raises(UnreadableError, match="does not say which run"):
        check_folder(where, model)
    run_file.unlink()
    lines[holds.index(True)]["label"] = 7
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(NotValidError, match="for label 7, eps None"):
        check_folder(where, model)
    lines.append({"index": 99, "status": "certified", "label": 0})
    path.write_text(json.dumps(lines[-1]))
    with pytest.raises(NotValidError, match="row 99 is called certified"):
        check_folder(where, model)
    with pytest.raises(UnreadableError, match="no regular file"):
        check_folder(where, model, verdicts=tmp_path / "none.jsonl")


def _labels(folder: Folder) -> np.ndarray:
    labels = np.zeros(len(folder.inputs), np.int64)
    labels[[p.row for p in folder.proofs]] = [p.label for p in folder.proofs]
    return labels


def test_inputs_are_those_of_an_npz_data_set(tmp_path: Path) -> None:
    folder, _ = random_proofs("relu")
    where, data = folder.write(tmp_path), tmp_path / "data.npz"
    x, y = folder.inputs.copy(), _labels(folder)

    def write() -> None:
        np.savez(data, x_train=x, y_train=y, x_test=x.reshape(len(x), 1, -1), y_test=y)

    write()
    assert check_folder(*where, data=str(data)).compared
    x[folder.proofs[1].row, -1] = np.nextafter(x[folder.proofs[1].row, -1], 2)
    write()
    with pytest.raises(NotValidError, match=r"input 1 is .*, in the data set "):
        check_folder(*where, data=str(data))
    x, y = folder.inputs, y + 1
    write()
    with pytest.raises(NotValidError, match=r"label \d, in the data set"):
        check_folder(*where, data=str(data))
    x, y = x[:1], y[:1] - 1
    write()
    with pytest.raises(NotValidError, match="data set ends before row"):
        check_folder(*where, data=str(data))
    with pytest.raises(UnreadableError, match="write them to an npz file"):
        check_folder(*where, data="digits")


def test_inputs_are_mnist_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = random_proofs("relu")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 2), np.uint8)
    network = load_model(folder.write(tmp_path)[1])
    folder, _ = prove(network, pixels.reshape(8, 2) / 255.0, None, 1e-3, (0.0, 1.0))
    where, home = folder.write(tmp_path), tmp_path / "mnist"
    home.mkdir()
    images, labels = home / "t10k-images-idx3-ubyte.gz", home / "t10k-labels-idx1-ubyte"
    images.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 8, 1, 2) + pixels.tobytes()))
    y = _labels(folder).astype(np.uint8).tobytes()
    labels.write_bytes(struct.pack(">II", 0x801, 8) + y)
    monkeypatch.setenv("EQUICERT_DATA_DIR", str(tmp_path))
    assert check_folder(*where, data="mnist").compared
    pixels[folder.proofs[-1].row, 0, 0] ^= 1
    images.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 8, 1, 2) + pixels.tobytes()))
    with pytest.raises(NotValidError, match="input 0 is"):
        check_folder(*where, data=str(home))
    damaged: list[Callable[[], object]] = [
        lambda: images.write_bytes(images.read_bytes()[:-20]),
        lambda: labels.write_bytes(struct.pack(">II", 0x801, 9) + y),
        lambda: images.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 8, 2, 2))),
        lambda: images.write_bytes(b"no gzip"),
        images.unlink,
    ]
    for damage in damaged:
        damage()
        with pytest.raises(UnreadableError):
            check_folder(*where, data=str(home))


# The commands.


def _isolated(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", str(SOURCE), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_without_anything_installed(tmp_path: Path) -> None:
    folder, holds = random_proofs("softplus")
    where, model = folder.write(tmp_path)
    done = _isolated(where, "--model", model)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"valid: {sum(holds)} certificates (0 of them trees) and 0 w")
    assert done.stdout.count("\n") == 1
    done = _isolated(where, "--model", model, "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    folder.proofs[-1].margins *= 2
    done = _isolated(*folder.write(tmp_path)[:1], "--model", model)
    assert done.returncode == 1
    assert done.stdout.startswith(f"not valid: row {folder.proofs[-1].row}: the margin against")
    done = _isolated(where)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    done = _isolated(tmp_path, "--model", model)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("equicert check: error: ")
    assert done.stderr.count("\n") == 1


def test_equicert_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, holds = random_proofs("relu")
    where, model = map(str, folder.write(tmp_path))
    assert run("check", where, "--model", model) == 0
    assert capsys.readouterr().out.startswith(f"valid: {sum(holds)} certificates")
    folder.proofs[0].lo = folder.proofs[0].hi
    folder.write(tmp_path)
    assert run("check", where, "--model", model) == 1
    assert capsys.readouterr().out.startswith("not valid: row 0: neuron 0")
    assert run("check", where, "--model", where) == 2
    assert "equicert check: error: " in capsys.readouterr().err
