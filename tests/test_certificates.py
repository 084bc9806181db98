"""Certificates as the prover writes them: every certified verdict has one, and it is valid.

The checker decides, which shares no code with the library. Kills, full disks and folders of
others: what is on the disk is a proof or is left out, at any moment.
"""

import json
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from command import run
from equicert import write_certificates
from equicert.bounds import (
    Interval,
    Lipschitz,
    LipschitzRadius,
    Method,
    Semidefinite,
    SignSplit,
    Spectral,
)
from equicert.certificates import CLAIM, INPUTS
from equicert.certify_run import Certification
from equicert.checker import NotValidError, Report, UnreadableError, check_folder
from equicert.errors import InputError, NotContractingError, OutputError
from equicert.evaluation import Evaluation, evaluate_lines
from equicert.jobs import Samples
from equicert.lipschitz import Derived
from equicert.models import load_model, save_model
from equicert.queries import StateProofs
from equicert.records import MAGIC, RECORDS, Records
from equicert.stored import StoredNetwork
from networks import (
    ACTIVATIONS,
    CONTRACTING,
    HAIRLINE,
    NOT_CONTRACTING,
    Network,
    contracting_networks,
    random_network,
)
from test_runs import file_size_limit

METHODS = (Interval(), Lipschitz(), Lipschitz(local=True), SignSplit())
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
LABELLED = [net for net in (*CONTRACTING.values(), *HAIRLINE.values()) if net.outputs > 1]
CHECKER = Path(__file__).parents[1] / "src" / "equicert" / "checker"


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation, eta=net.eta)


def write(
    root: Path, net: Network | StoredNetwork, x: Any, labels: Any, eps: float, **more: Any
) -> Evaluation:
    """Certificates in root/proofs, and beside them the model."""
    network = stored(net) if isinstance(net, Network) else net
    found = write_certificates(
        root / "proofs", network, torch.as_tensor(x), torch.as_tensor(labels), eps, **more
    )
    save_model(root / "model.safetensors", network, None)
    return found


def check(root: Path) -> Report:
    return check_folder(root / "proofs", root / "model.safetensors")


def certified(found: Evaluation) -> int:
    return sum(line["status"] == "certified" for line in found.lines)


def require_valid(root: Path, found: Evaluation) -> int:
    """Every certified verdict has its certificate, every certificate is valid; how many."""
    report = check(root)
    assert not report.dropped
    assert report.certificates == report.certified == certified(found)
    assert found.summary["certificates"] == report.certificates
    return report.certificates


@pytest.fixture
def net() -> Network:
    return random_network(np.random.default_rng(7), 4, 2, 3, gamma=0.25)


@pytest.fixture
def points(net: Network) -> tuple[torch.Tensor, torch.Tensor]:
    """Some points with the labels that the network gives them, but for the last."""
    x = torch.from_numpy(np.random.default_rng(3).uniform(0, 1, (9, net.inputs)))
    labels = stored(net).predict(x).argmax(1)
    labels[-1] = (labels[-1] + 1) % net.outputs
    return x, labels


# The prover says certified only where the checker says valid.


@EACH
@pytest.mark.parametrize("net", LABELLED, ids=str)
def test_certificates_of_awkward_networks_are_valid(
    net: Network, method: Method, tmp_path: Path
) -> None:
    x = np.linspace(0, 1, 3 * net.inputs).reshape(3, -1).repeat(2, 0)
    network = stored(net)
    for k, (eps, domain) in enumerate([(1e-3, None), (0.3, (0.0, 1.0))]):
        root = tmp_path / str(k)
        root.mkdir()
        try:
            found = write(root, network, x, [0, 1] * 3, eps, domain=domain, method=method)
        except NotContractingError:  # true of some, and not proved in float64
            assert not net.contracting or net.name in HAIRLINE
            assert not list(root.iterdir())
            continue
        require_valid(root, found)


@EACH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_certificates_for_every_activation_are_valid(
    activation: str, method: Method, tmp_path: Path
) -> None:
    """And there are some: else nothing is tested."""
    net = random_network(np.random.default_rng(5), 5, 3, 4, gamma=-0.5, activation=activation)
    if method.name == "sign-split":  # its own condition holds of small weights
        net = replace(net, W=net.W / 16)
    x = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (12, 3)))
    labels = stored(net).predict(x).argmax(1)
    found = write(tmp_path, net, x, labels, 1e-3, domain=(0.0, 1.0), method=method)
    assert require_valid(tmp_path, found) > 6


@given(
    net=contracting_networks().filter(lambda net: net.outputs > 1),
    eps=st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 1.0]),
    method=st.sampled_from(METHODS),
    data=st.data(),
)
def test_certificates_of_drawn_networks_are_valid(
    net: Network,
    eps: float,
    method: Method,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    x = [data.draw(st.floats(-1, 1)) for _ in range(net.inputs)]
    root = tmp_path_factory.mktemp("drawn")
    labels = range(net.outputs)
    found = write(root, net, [x] * net.outputs, list(labels), eps, method=method)
    require_valid(root, found)


@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_no_certificates_without_an_eta_or_monotonicity(net: Network, tmp_path: Path) -> None:
    x = np.zeros((1, net.inputs))
    if np.linalg.eigvalsh((net.W + net.W.T) / 2)[-1] < 1:
        assert not require_valid(tmp_path, write(tmp_path, net, x, [0], 0.1))
        return
    with pytest.raises(NotContractingError):
        write(tmp_path, net, x, [0], 0.1)
    assert not list(tmp_path.iterdir())


def test_a_margin_falsified_by_one_unit_is_noticed(
    net: Network, points: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """The checker of this file reads what was written: it is not valid by accident."""
    write(tmp_path, net, *points, 0.01)
    path = tmp_path / "proofs" / RECORDS
    content = bytearray(path.read_bytes())
    content[len(MAGIC) + 12 + 2] ^= 8  # the row of the first record
    path.write_bytes(content)
    with pytest.raises((NotValidError, UnreadableError)):
        check(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_order_batch_size_and_threads_leave_all_valid(
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
    threads: int,
    tmp_path: Path,
) -> None:
    x, labels = points
    order = torch.from_numpy(np.random.default_rng(batch_size).permutation(len(x)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = write(tmp_path, net, x[order], labels[order], 0.01, batch_size=batch_size)
    finally:
        torch.set_num_threads(before)
    assert 4 < require_valid(tmp_path, found) < len(x)


def test_what_a_record_takes(
    net: Network, points: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    found = write(tmp_path, net, *points, 0.01)
    size = (tmp_path / "proofs" / RECORDS).stat().st_size
    each = 12 + 18 + 8 * (2 * net.states + net.outputs - 1)
    assert size == len(MAGIC) + certified(found) * each


@pytest.mark.parametrize("method", [Interval(), Lipschitz()], ids=lambda method: method.name)
def test_radii_have_certificates_of_their_own(
    net: Network, points: tuple[torch.Tensor, torch.Tensor], method: Method, tmp_path: Path
) -> None:
    network, (x, labels) = stored(net), points
    samples = Samples(x, labels, (0.0, 1.0), "drawn", "0" * 64)
    job = Certification(method, None, largest=0.5, resolution=1e-3)
    found = evaluate_lines(job, network, samples, batch_size=4, certificates=tmp_path / "proofs")
    save_model(tmp_path / "model.safetensors", network, None)
    assert require_valid(tmp_path, found) == len(x) - 1
    radii = [line["radius"] for line in found.lines if line["radius"] is not None]
    assert check(tmp_path).radii == (min(radii), max(radii))


# Kills.


def _cut(root: Path, size: int, batch_size: int, whole: dict[str, bytes]) -> int:
    """What a kill leaves when `size` bytes of records were written; how many whole ones."""
    records = whole[RECORDS][:size]
    lines = whole["verdicts.jsonl"].splitlines(keepends=True)
    proved = [json.loads(line)["status"] == "certified" for line in lines]
    each = (len(whole[RECORDS]) - len(MAGIC)) // sum(proved)
    complete = max(0, len(records) - len(MAGIC)) // each
    batches = range(0, len(lines) + 1, batch_size)
    known = max(k for k in batches if sum(proved[:k]) <= complete)
    (root / "proofs" / RECORDS).write_bytes(records)
    (root / "proofs" / "verdicts.jsonl").write_bytes(b"".join(lines[:known]) + lines[0][: size % 9])
    (root / "proofs" / "summary.json").unlink(missing_ok=True)
    return complete


def test_cut_at_any_byte_is_valid_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    net = random_network(np.random.default_rng(1), 1, 1, 2)
    x = torch.linspace(0, 1, 4)[:, None]
    labels = stored(net).predict(x).argmax(1)
    labels[1] = 1 - labels[1]
    write(tmp_path, net, x, labels, 0.001, batch_size=2)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "proofs").iterdir()}
    for size in range(len(MAGIC), len(whole[RECORDS]) + 1):
        complete = _cut(tmp_path, size, 2, whole)
        with (tmp_path / "proofs" / "verdicts.jsonl").open("r+b") as lines:
            lines.truncate(lines.read().rfind(b"\n") + 1)  # a torn line is no JSON
        assert check(tmp_path).certificates == complete
        _cut(tmp_path, size, 2, whole)
        write(tmp_path, net, x, labels, 0.001, batch_size=2, resume=True)
        assert (tmp_path / "proofs" / RECORDS).read_bytes() == whole[RECORDS]
        assert check(tmp_path).certified == 3


@pytest.mark.parametrize("left", [(), (INPUTS,), (INPUTS, CLAIM), (CLAIM,)], ids=str)
@pytest.mark.parametrize("magic", [None, b"", MAGIC[:5]])
def test_a_kill_while_the_folder_is_made(
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    left: tuple[str, ...],
    magic: bytes | None,
    tmp_path: Path,
) -> None:
    write(tmp_path, net, *points, 0.01)
    folder = tmp_path / "proofs"
    for path in folder.iterdir():
        if path.name not in (*left, "run.json"):
            path.unlink()
    if magic is not None:
        (folder / RECORDS).write_bytes(magic)
    (folder / f".{INPUTS}.4242.tmp").write_bytes(b"half")
    found = write(tmp_path, net, *points, 0.01, resume=True)
    require_valid(tmp_path, found)


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at work, killed at random, leaves a valid folder each time, and ends the same."""
    monkeypatch.chdir(tmp_path)
    net = random_network(np.random.default_rng(2), 3, 2, 3)
    x = np.random.default_rng(0).uniform(0, 1, (240, 2))
    y = stored(net).predict(torch.from_numpy(x)).argmax(1).numpy()
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y, domain=np.array([0.0, 1.0]))
    save_model(Path("model.safetensors"), stored(net), None)
    words = ["certify", "model.safetensors", "--data", "data.npz", "--eps", "0.001", "--quiet"]
    words += ["--batch-size", "3", "--threads", "1", "--certificates"]
    assert run(*words, "whole") == 0
    command = [sys.executable, "-m", "equicert", *words, "proofs", "--resume"]
    records, dice = Path("proofs") / RECORDS, random.Random(0)
    size = Path("whole", RECORDS).stat().st_size
    for _ in range(3):
        before = records.stat().st_size if records.exists() else 0
        process = subprocess.Popen(command)
        while process.poll() is None:
            grown = records.stat().st_size if records.exists() else 0
            if grown > before + dice.random() * size / 4:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = Path("proofs", "verdicts.jsonl")
        content = lines.read_bytes()
        lines.write_bytes(content[: content.rfind(b"\n") + 1])
        report = check(tmp_path)
        assert report.certified is not None
        assert report.certificates >= report.certified
    assert run(*words, "proofs", "--resume") == 0
    for name in (CLAIM, RECORDS):
        assert Path("proofs", name).read_bytes() == Path("whole", name).read_bytes()
    assert (
        check(tmp_path).certified
        == check_folder(Path("whole"), Path("model.safetensors")).certificates
    )


# Folders that are not this run's, and disks that fail.


def _other_model(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, replace(net, b=net.b + 1e-9), x, labels, 0.01, resume=True)


def _other_inputs(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, net, x + 1e-9, labels, 0.01, resume=True)


def _other_domain(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, net, x, labels, 0.01, domain=(0, 1), resume=True)


def _other_eps(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, net, x, labels, 0.02, resume=True)


def _other_eta(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, replace(net, eta=2 * (net.eta if net.eta is not None else 1)), x, labels, 0.01,
          resume=True)  # fmt: skip


def _no_resume(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    write(root, net, x, labels, 0.01)


def _flipped(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    path = root / "proofs" / RECORDS
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    write(root, net, x, labels, 0.01, resume=True)


def _not_records(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    (root / "proofs" / RECORDS).write_bytes(b"something else altogether")
    write(root, net, x, labels, 0.01, resume=True)


def _lost_record(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    (root / "proofs" / RECORDS).write_bytes(MAGIC)
    write(root, net, x, labels, 0.01, resume=True)


def _damaged_claim(root: Path, net: Network, x: torch.Tensor, labels: torch.Tensor) -> None:
    (root / "proofs" / CLAIM).write_text('{"format"')
    write(root, net, x, labels, 0.01, resume=True)


REFUSED: list[tuple[Callable[..., None], str]] = [
    (_other_model, "model is .* there and .* here"),
    (_other_inputs, "data is .* there and .* here"),
    (_other_domain, "domain is null there and"),
    (_other_eps, "eps is 0.01 there and 0.02 here"),
    (_other_eta, "eta is .* there and .* here"),
    (_no_resume, "holds this very run already"),
    (_flipped, "damaged at byte 16"),
    (_not_records, "holds no certificates"),
    (_lost_record, "row 0 has a verdict or a record"),
    (_damaged_claim, "is damaged"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_folder_that_is_not_this_run_is_refused(
    change: Callable[..., None],
    said: str,
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    write(tmp_path, net, *points, 0.01)
    with pytest.raises(OutputError, match=said) as error:
        change(tmp_path, net, *points)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_the_folder_of_somebody_else_stays_as_it_is(
    net: Network, points: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "proofs").mkdir()
    (tmp_path / "proofs" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds no run"):
        write(tmp_path, net, *points, 0.01)
    assert [path.name for path in (tmp_path / "proofs").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("limit", [0, 10, 200, 700])
def test_a_full_disk_costs_the_batch_only(
    net: Network, points: tuple[torch.Tensor, torch.Tensor], limit: int, tmp_path: Path
) -> None:
    x, labels = points
    with file_size_limit(limit), pytest.raises(OutputError, match="cannot write"):
        write_certificates(tmp_path / "proofs", stored(net), x, labels, 0.01, batch_size=3)
    found = write(tmp_path, net, x, labels, 0.01, batch_size=3, resume=True)
    require_valid(tmp_path, found)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_written(
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with read_only(tmp_path), monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.replace", refuse)  # root may write anywhere
        with pytest.raises(OutputError, match="may write"):
            write(tmp_path, net, *points, 0.01)


def test_reading_back_takes_little_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = stored(random_network(rng, 100, 2, 2))
    count, path = 4000, tmp_path / RECORDS
    z = torch.zeros(count, 100)
    with Records(path, network, 0) as records:
        labels, eps = torch.zeros(count, dtype=torch.int64), np.zeros(count)
        each = records.bytes_each
        records.append(0, labels, eps, StateProofs(torch.arange(count), z, z, z[:, :1]))
    tracemalloc.start()
    with Records(path, network, count) as records:
        assert len(records.kept[0]) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * each / 3


# The commands.


@pytest.mark.parametrize(
    "method",
    [LipschitzRadius(Derived()), Spectral(), Semidefinite()],
    ids=lambda method: method.name,
)
def test_methods_that_prove_otherwise_are_refused(
    method: Method, net: Network, points: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"and {method.name} makes neither"):
        write(tmp_path, net, *points, 0.01, method=method)
    assert not list(tmp_path.iterdir())


def test_commands(
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = (tensor.numpy() for tensor in points)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y, domain=np.array([0.0, 1.0]))
    save_model(Path("m.safetensors"), stored(net), None)
    words = ("certify", "m.safetensors", "--data", "data.npz", "--eps", "0.01", "--limit", "8")
    assert run(*words, "--out", "v", "--certificates", "p") == 0
    assert {path.name for path in Path("p").iterdir()} == {"run.json", CLAIM, INPUTS, RECORDS}
    same = ("--model", "m.safetensors", "--data", "data.npz")
    capsys.readouterr()
    assert run("check", "p", *same, "--verdicts", "v/verdicts.jsonl") == 0
    assert "valid: 8 certificates" in capsys.readouterr().out
    alone = [sys.executable, "-I", "-S", str(CHECKER), "p", *same]
    said = subprocess.run(alone, capture_output=True, text=True, check=True)
    assert "valid: 8 certificates" in said.stdout
    Path("v/summary.json").unlink()
    assert run(*words, "--out", "v", "--certificates", "p", "--resume") == 0
    assert run(*words, "--out", "v", "--resume") == 2
    assert "certificates is true there and absent here" in capsys.readouterr().err
    assert run(*words, "--certificates", "q", "--method", "spectral") == 2
    assert "post-fixed-point test" in capsys.readouterr().err
    assert not Path("q").exists()
    assert run(*words, "--certificates", "r", "--radius", "--method=lipschitz", "--local") == 0
    assert run("check", "r", *same) == 0


def test_too_many_inputs_are_refused_before_anything_is_written(
    net: Network,
    points: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("equicert.certificates._LARGEST", 100)
    with pytest.raises(InputError, match="at most 100 bytes of inputs, and these are 144"):
        write(tmp_path, net, *points, 0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_mnist_verdicts_are_valid(
    mnist_test: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """Of a network as wide as the published ones, all labels its own."""
    rng = np.random.default_rng(0)
    net = random_network(rng, 100, 784, 10, gamma=-1.0, eta_spread=3.0)
    net = replace(net, W=net.W / 4)
    x = mnist_test[0][:500]
    labels = stored(net).predict(x, 1e-6).argmax(1)
    found = write(tmp_path, net, x, labels, 1e-3, domain=(0.0, 1.0))
    assert require_valid(tmp_path, found) > 100
    assert load_model(tmp_path / "model.safetensors").digest == stored(net).digest
