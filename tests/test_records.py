"""Trees and witnesses as the library writes them: the checker reads them back, whatever was killed.

The proofs are those of the tests' own prover, turned into the library's structures.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equicert.bounds.spectral import input_norm
from equicert.certificates import BallClaim, Subject, prepare
from equicert.checker import Report, check_folder
from equicert.errors import InputError, NotContractingError, OutputError
from equicert.models import save_model
from equicert.monotonicity import Monotone
from equicert.proofs import BallStart, Leaf, Lemma, Split, StateStart, Step, TreeProof, Witness
from equicert.queries import StateProofs
from equicert.records import MAGIC, RECORDS, Proof, Records, encode, encode_multiplier
from equicert.runs import claim_folder
from equicert.stored import StoredNetwork
from networks import NOT_CONTRACTING
from tree_proofs import Reader, Tree, Witnessed, multiplier
from tree_prover import Case, proved, witnessed


class _Structures(Reader):
    """Reads a record of the tests into the library's structures."""

    def proof(self) -> Proof:
        kind, *_ = self.unpack("<BBIId")
        if kind == 3:
            (rival,) = self.unpack("<I")
            x = np.array(self.floats(self.r))
            return Witness(x, rival, self.structure(), -1.0)
        start, (count,) = self.structure(), self.unpack("<I")
        chain = tuple(self.made() for _ in range(count))
        margins = np.array(self.floats(self.q - 1))
        return TreeProof(start, chain, margins, tuple(self.tree() for _ in margins))

    def structure(self) -> StateStart | BallStart:
        tag, values = self.start()
        if tag:
            return BallStart(np.array(values))
        return StateStart(np.array(values[: self.n]), np.array(values[self.n :]))

    def made(self) -> Lemma:
        neuron, upper, value, lam = self.lemma()
        return Lemma(neuron, upper, float(value), np.array(lam, float))

    def tree(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        nodes = 1
        while nodes:
            (tag,) = self.unpack("<B")
            if tag == 3:
                steps.append(self.made())
            elif tag == 2:
                steps.append(Split(*self.unpack("<IB")))
                nodes += 1
            else:
                steps.append(Leaf(np.array(self.multiplier(), float), tag == 1))
                nodes -= 1
        return tuple(steps)


def structures(case: Case) -> Proof:
    return _Structures(case.record.body(), *case.folder.sizes).proof()


def network_of(case: Case) -> StoredNetwork:
    net = case.net
    if net.contracting:
        return StoredNetwork.from_arrays(*net.arrays, net.activation, eta=net.eta)
    return StoredNetwork.from_arrays(*net.arrays, net.activation, Lambda=net.eta)


@pytest.mark.parametrize("contracting", [True, False])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [proved, witnessed])
def test_bytes_are_those_of_the_format(
    make: Callable[..., Case], seed: int, contracting: bool
) -> None:
    case = make(seed, "relu", contracting)
    assert encode(structures(case)) == case.record.body()[18:]


ANY = st.floats(allow_nan=False, allow_infinity=False)
FEW = st.integers(-40000, 40000).map(float) | st.just(0.0)


@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=FEW) |
    hnp.arrays(np.float64, st.integers(1, 20), elements=ANY),
    st.integers(-1100, 900),
)  # fmt: skip
def test_a_multiplier_is_written_exactly(values: np.ndarray, power: int) -> None:
    with np.errstate(over="ignore", under="ignore"):
        shifted = np.ldexp(values, power)
    for lam in (values, shifted[np.isfinite(shifted)]):
        if not len(lam):
            continue
        raw = encode_multiplier(lam)
        reader = Reader(raw, len(lam), 1, 2)
        assert [float(v) for v in reader.multiplier()] == lam.tolist()
        assert reader.at == len(raw) <= len(multiplier(lam.tolist())) + 2 * len(lam)


def test_the_smallest_width() -> None:
    short, wide, whole = np.array([3.0, 0.0, -0.125]), np.array([1.0, 2.0**-20]), np.array([0.1])
    assert encode_multiplier(short) == b"\2\xfd\xff\5\x18\0\xff\xff"
    assert [encode_multiplier(v)[0] for v in (short, wide, whole)] == [2, 4, 8]
    assert encode_multiplier(np.zeros(9)) == b"\2\0\0\0\0"
    assert encode_multiplier(np.array([5e-324, 3e-323]))[0] == 2
    assert encode_multiplier(np.array([2.0**1000]))[0] == 8  # beyond the exponents of the format


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_no_proof(bad: float) -> None:
    case = proved(0, "relu", contracting=True)
    proof = structures(case)
    assert isinstance(proof, TreeProof)
    lemma = Lemma(0, False, bad, np.zeros(case.net.states))
    lam = replace(lemma, value=0.0, multiplier=np.full(case.net.states, bad))
    for made in (
        replace(proof, margins=proof.margins * bad),
        replace(proof, chain=(lemma,)),
        replace(proof, chain=(lam,)),
        replace(proof, start=BallStart(np.full(case.net.states, bad))),
    ):
        with pytest.raises(InputError, match="NaN or an infinity"):
            encode(made)


# Folders of all kinds of records.


def ball_of(case: Case) -> BallClaim:
    """As the case claims it."""
    claim = case.folder.monotone
    assert claim is not None
    weights = torch.tensor([float.fromhex(v) for v in claim["Lambda"]], dtype=torch.float64)
    m, norm = float.fromhex(claim["m"]), float.fromhex(claim["norm"])
    return BallClaim(Monotone(m, weights), norm)


def write(root: Path, case: Case, proofs: dict[int, Proof], count: int = 4) -> tuple[int, Path]:
    """A folder about `count` copies of the case's input, with its proof at some rows."""
    network, x = network_of(case), torch.from_numpy(case.folder.inputs).repeat(count, 1)
    ball = None if case.net.contracting else ball_of(case)
    subject = Subject(network, x, None, "copies", "0" * 64, ball)
    folder = claim_folder(root / "proofs", "certify", {"model": network.digest}, True)
    prepare(folder, subject.claim(), subject)
    save_model(root / "model.safetensors", network, None)
    labels = torch.full((count,), case.record.label)
    with Records(folder / RECORDS, network, 0) as records:
        written = records.append(0, labels, np.full(count, case.record.eps), None, proofs)
    return written, folder / RECORDS


def check(root: Path) -> Report:
    return check_folder(root / "proofs", root / "model.safetensors")


@pytest.mark.parametrize("contracting", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.25)", "hard_tanh"])
def test_proofs_and_witnesses_that_were_written_are_valid(
    activation: str, contracting: bool, tmp_path: Path
) -> None:
    for make, found in ((proved, (2, 2, 0)), (witnessed, (0, 0, 2))):
        case = make(0, activation, contracting)
        root = tmp_path / make.__name__
        root.mkdir()
        assert write(root, case, {1: structures(case), 3: structures(case)})[0] == 2
        report = check(root)
        assert (report.certificates, report.trees, report.witnesses) == found


def test_a_folder_without_eta_or_ball_is_refused(tmp_path: Path) -> None:
    net = NOT_CONTRACTING["monotone, mu_2 = 0"]
    network = StoredNetwork.from_arrays(*net.arrays)
    subject = Subject(network, torch.zeros(1, net.inputs), None, "none", "0" * 64)
    with pytest.raises(NotContractingError):
        subject.claim()
    subject = replace(subject, ball=BallClaim(network.monotone, input_norm(network)))
    assert subject.claim()["eta"] is None
    prepare(claim_folder(tmp_path / "proofs", "certify", {}, False), subject.claim(), subject)
    Records(tmp_path / "proofs" / RECORDS, network, 0).close()
    save_model(tmp_path / "model.safetensors", network, None)
    assert check(tmp_path).certificates == 0  # and the library's m and norm hold exactly
    case = proved(0, "relu", contracting=True)
    assert Subject(network_of(case), torch.zeros(1, case.net.inputs), None, "", "").claim()["eta"]


def test_all_kinds_in_one_batch_and_back(tmp_path: Path) -> None:
    """State boxes and others in the order of rows; kept apart when they are read back."""
    case = witnessed(1, "relu", contracting=True)
    network, (n, _, q) = network_of(case), case.folder.sizes
    tree, path = structures(proved(1, "relu", contracting=True)), tmp_path / RECORDS
    z = torch.zeros(2, n, dtype=torch.float64)
    boxes = StateProofs(torch.tensor([0, 3]), z, z, torch.ones(2, q - 1, dtype=torch.float64))
    labels, eps = torch.tensor([2, 1, 0, 1, 0]), np.array([0.5, 0.5, np.nan, 0.5, 0.5])
    with Records(path, network, 0) as records:
        assert records.append(10, labels, eps, boxes, {1: tree, 4: structures(case)}) == 4
        with pytest.raises(InputError, match="row 13 has a state box and another proof"):
            records.append(10, labels, eps, boxes, {3: tree})
    proofs, witnesses = [(10, 2), (11, 1), (13, 1)], [(14, 0)]
    with Records(path, network, 15) as records:
        assert records.kept == (dict(proofs), dict(witnesses))
        records.require(proofs, witnesses)
        with pytest.raises(OutputError, match="row 14 has a verdict or a record"):
            records.require(proofs)
        with pytest.raises(OutputError, match="row 11 has"):
            records.require([(10, 2), (13, 1)], [(11, 1), (14, 0)])
    with Records(path, network, 13) as records:
        assert records.kept == (dict(proofs[:2]), {})


def test_cut_at_any_byte(tmp_path: Path) -> None:
    case = proved(2, "relu", contracting=True)
    proof, network = structures(case), network_of(case)
    _, path = write(tmp_path, case, {0: proof, 2: proof})
    whole = path.read_bytes()
    each = (len(whole) - len(MAGIC)) // 2
    labels, eps = torch.full((4,), case.record.label), np.full(4, case.record.eps)
    for size in range(len(MAGIC), len(whole), 7):
        path.write_bytes(whole[:size])
        complete = (size - len(MAGIC)) // each
        report = check(tmp_path)
        assert report.certificates == complete
        assert report.dropped == bool((size - len(MAGIC)) % each)
        with Records(path, network, 4) as records:
            assert len(records.kept[0]) == complete
            rest = dict.fromkeys([0, 2][complete:], proof)
            records.append(0, labels, eps, None, rest)
        assert path.read_bytes() == whole


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    case = witnessed(0, "relu", contracting=True)
    _, path = write(tmp_path, case, {1: structures(case)})
    whole, network = path.read_bytes(), network_of(case)
    for bit in range(8 * len(MAGIC), 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(OutputError, match="damaged at byte 16"):
            Records(path, network, 4)


def test_files_of_version_1_and_bodies_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = proved(0, "relu", contracting=True)
    network, path = network_of(case), tmp_path / RECORDS
    path.write_bytes(b"equicert-proof-1" + b"\0" * 50)
    with pytest.raises(OutputError, match="no certificates of this version"):
        Records(path, network, 0)
    path.unlink()
    monkeypatch.setattr("equicert.records.BODY_BYTES", 500)
    with Records(path, network, 0) as records:
        proof = structures(case)
        assert isinstance(proof, TreeProof)
        long = replace(proof, chain=(Lemma(0, False, -9.0, np.zeros(case.net.states)),) * 50)
        with pytest.raises(InputError, match=r"the proof of row 5 has .* certify it with fewer"):
            records.append(5, torch.tensor([0]), np.zeros(1), None, {0: long})
    assert path.read_bytes() == MAGIC


def test_reading_back_takes_the_memory_of_one_record(tmp_path: Path) -> None:
    case = proved(0, "relu", contracting=True)
    network, path, proof = network_of(case), tmp_path / RECORDS, structures(case)
    count = 500
    with Records(path, network, 0) as records:
        labels, eps = torch.zeros(count, dtype=torch.int64), np.zeros(count)
        records.append(0, labels, eps, None, dict.fromkeys(range(count), proof))
    tracemalloc.start()
    with Records(path, network, count) as records:
        assert len(records.kept[0]) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_records_of_the_tests_are_of_both_starts() -> None:
    ball, box = proved(0, "relu", contracting=False), proved(0, "relu", contracting=True)
    assert isinstance(ball.record, Tree)
    assert isinstance(structures(ball).start, BallStart)
    assert isinstance(structures(box).start, StateStart)
    assert isinstance(witnessed(0, "relu", contracting=True).record, Witnessed)
