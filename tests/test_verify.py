"""Verdicts on properties: never against the exact truth, and written as VNN-COMP reads them."""

from __future__ import annotations

import csv
import gzip
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import run
from equicert.errors import InputError, OutputError
from equicert.exact_outputs import ExactOutputs
from equicert.instances import COUNTEREXAMPLES, read_instances, run_instances
from equicert.onnx_models import load_onnx
from equicert.properties import Property
from equicert.stored import StoredNetwork
from equicert.verification import Result, load_network, verify
from equicert.vnnlib import load_property, parse_property
from monotone_networks import MONOTONE
from networks import CONTRACTING, Network
from onnx_files import evaluate, model, node, write

drawn = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def abs_model(*before: onnx.NodeProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """y = |x| (of what comes before), and its negative."""
    given = {"W": np.array([[1.0, -1.0]]), "V": np.array([[1.0, -1.0], [1.0, -1.0]])} | arrays
    first = before[-1].output[0] if before else "x"
    nodes = [node("MatMul", f"{first} W", "h"), node("Relu", "h", "z"), node("MatMul", "z V", "y")]
    double = onnx.TensorProto.DOUBLE
    return model([*before, *nodes], [1, 1], given, kind=double)


def on_abs(low: str, high: str, formula: str) -> str:
    return (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)"
        f"(assert (>= X_0 {low}))(assert (<= X_0 {high}))(assert {formula})"
    )


@pytest.fixture
def network(tmp_path: Path) -> StoredNetwork:
    return load_onnx(write(tmp_path, abs_model())).network


# Interval bounds of |x| over [-1, 1] are 0 and 2.
DECIDED = [
    ("-1", "1", "(>= Y_0 2.0001)", Result.UNSAT),
    ("-1", "1", "(<= Y_0 -1e-300)", Result.UNKNOWN),  # true, but 1e-300 is below the rounding
    ("-1", "1", "(<= Y_0 -1e-9)", Result.UNSAT),
    ("0.5", "1", "(<= Y_0 0.4999999)", Result.UNSAT),
    ("-1", "1", "(>= Y_0 1)", Result.SAT),  # at the corners
    ("-1", "1", "(<= Y_0 0)", Result.SAT),  # at the centre, on the boundary
    ("0.1", "0.1", "(>= Y_0 0.1)", Result.SAT),  # at a point that no float64 is
    ("0.1", "0.1", "(<= Y_0 0.1)", Result.SAT),
    ("0.1", "0.1", "(<= Y_0 0.0999)", Result.UNSAT),
    ("0.1", "0.1", "(and (<= Y_0 0.1) (>= Y_0 0.1) (<= Y_1 -0.1) (>= Y_1 -0.1))", Result.SAT),
    ("-1", "1", "(and (>= Y_0 0.6) (>= Y_1 -0.5))", Result.UNSAT),  # by the sum of both
    ("-1", "1", "(or (>= Y_0 2.1) (<= Y_1 -2.1))", Result.UNSAT),
    ("-1", "1", "(or (>= Y_0 1.1) (<= Y_1 -1))", Result.SAT),
    ("-1", "1", "(and (>= Y_0 1) (<= X_0 -0.5))", Result.SAT),
    ("-1", "1", "(or (and (<= X_0 0) (>= Y_0 1.1)) (and (>= X_0 0.5) (<= Y_0 0.4)))", Result.UNSAT),
    ("-1", "1", "(or (and (<= X_0 0) (>= Y_0 1.1)) (and (>= X_0 0.5) (<= Y_0 0.5)))", Result.SAT),
    ("-1", "1", "(<= (* 0.12345678901234567891 Y_0) -0.1)", Result.UNSAT),  # coefficients rounded
    ("-1", "1", "(>= (* 0.12345678901234567891 Y_0) 0.12345678901234567891)", Result.SAT),
    ("-1", "1", "(>= Y_0 1.0001)", Result.UNSAT),  # by branching
    ("-1", "1", "(and (>= Y_0 0.2) (<= Y_0 0.1))", Result.UNSAT),  # by the sum
    ("-1", "1", "(and (>= Y_0 0.2) (<= (* 3 Y_0) 0.3))", Result.UNSAT),  # by a combination
    ("-1", "1", "(and (>= Y_0 0.3) (<= Y_0 0.35))", Result.SAT),  # inside
    ("-1", "1", "(<= 0 (- Y_0 Y_0))", Result.SAT),  # everywhere
    ("-1", "1", "(<= 1 (- Y_0 Y_0))", Result.UNSAT),  # nowhere
]


@pytest.mark.parametrize(("low", "high", "formula", "wanted"), DECIDED)
def test_verdicts(
    low: str, high: str, formula: str, wanted: Result, network: StoredNetwork
) -> None:
    prop = parse_property(on_abs(low, high, formula))
    found = verify(network, prop, seconds=60)
    assert found.result in (wanted, Result.UNSAT if wanted is Result.UNKNOWN else wanted)
    assert (found.counterexample is not None) == (wanted is Result.SAT)
    if found.counterexample is not None:
        x = found.counterexample.x
        assert prop.contains(x, [abs(x[0]), -abs(x[0])])
        assert found.counterexample.y == pytest.approx([abs(x[0]), -abs(x[0])])


def test_a_division_scales_the_property(tmp_path: Path) -> None:
    """y = |x / 3|: at x = 1 on the boundary of y >= 1/3, a boundary that 0.3333 is short of."""
    made = abs_model(node("Div", "x d", "s"), d=np.array([3.0]))
    read = load_onnx(write(tmp_path, made))
    assert read.scale == 3
    for formula, wanted in (
        ("(>= (* 3 Y_0) 1)", Result.SAT),
        ("(>= (* 3 Y_0) 2.00000001)", Result.UNSAT),
        ("(>= Y_0 0.3333)", Result.SAT),
        ("(>= Y_0 0.66667)", Result.UNSAT),
    ):
        found = verify(read.network, parse_property(on_abs("-1", "1", formula)), 60, read.scale)
        assert found.result is wanted
        if found.counterexample is not None:
            assert found.counterexample.y[0] == pytest.approx(1 / 3)


def test_more_than_one_box_needs_every_one_proved(network: StoredNetwork) -> None:
    """The second box alone holds a counterexample, and it has those inputs only."""
    formula = "(or (and (<= X_0 0) (>= Y_0 2)) (and (>= X_0 0.5) (<= X_0 0.75) (>= Y_0 0.75)))"
    found = verify(network, parse_property(on_abs("-1", "1", formula)), 60)
    assert found.result is Result.SAT
    assert found.counterexample is not None
    assert found.counterexample.x == (Fraction(3, 4),)


def test_time_is_up(network: StoredNetwork) -> None:
    unknown = parse_property(on_abs("-1", "1", "(and (>= Y_0 0.7) (<= Y_0 0.7))"))
    assert verify(network, unknown, seconds=1e-9).result is Result.TIMEOUT


values = st.integers(-3, 3).map(float)


@given(
    st.lists(values, min_size=12, max_size=12),
    st.lists(values, min_size=4, max_size=4),
    st.sampled_from(["<=", ">="]),
    st.sampled_from(["and", "or"]),
)
def test_no_verdict_against_brute_force(
    weights: list[float], bounds: list[float], op: str, joined: str
) -> None:
    """Two inputs, three ReLUs, small whole numbers: a grid of points finds most violations."""
    U, C = np.array(weights[:6]).reshape(3, 2), np.array(weights[6:]).reshape(2, 3)
    network = StoredNetwork.from_arrays(np.zeros((3, 3)), U, np.array([1.0, 0, -1]), C, np.zeros(2))
    text = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    text += "".join(f"(assert (and (<= X_{i} 1) (>= X_{i} -1)))" for i in range(2))
    text += f"(assert ({joined} ({op} Y_0 {bounds[0]}) (<= (+ Y_0 Y_1) {bounds[1] * 3})))"
    prop = parse_property(text)
    found = verify(network, prop, 60)
    exact = ExactOutputs.of(network)
    assert exact is not None
    grid = [Fraction(k, 4) for k in range(-4, 5)]
    violated = any(prop.contains(x, exact(x)) for x in product(grid, grid))
    if found.counterexample is not None:
        x = found.counterexample.x
        assert found.result is Result.SAT
        assert prop.contains(x, exact(x))
    if violated:
        assert found.result in (Result.SAT, Result.UNKNOWN)


@pytest.mark.parametrize("name", ["feed-forward relu", "zero W", "nilpotent", "deaf to its input"])
def test_exact_outputs_solve_the_equation(name: str) -> None:
    case = CONTRACTING[name]
    network = StoredNetwork.from_arrays(*case.arrays, activation=case.activation)
    exact = ExactOutputs.of(network)
    if name == "deaf to its input":  # W has a cycle there
        assert exact is None
        return
    assert exact is not None
    x = [Fraction(1, 3)] * case.inputs
    near = network.predict(torch.full((1, case.inputs), 1 / 3))[0]
    np.testing.assert_allclose([float(v) for v in exact(x)], near.numpy(), rtol=1e-9, atol=1e-9)
    assert exact([v / 3 for v in x]) != exact(x)


def test_exact_outputs_are_for_relu_only() -> None:
    case = CONTRACTING["feed-forward hard_tanh"]
    network = StoredNetwork.from_arrays(*case.arrays, activation=case.activation)
    assert ExactOutputs.of(network) is None


def box_property(case: Network, formula: str) -> Property:
    names = [f"X_{i}" for i in range(case.inputs)] + [f"Y_{j}" for j in range(case.outputs)]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    text += "".join(f"(assert (and (<= X_{i} 1) (>= X_{i} -1)))" for i in range(case.inputs))
    return parse_property(f"{text}(assert {formula})")


@pytest.mark.parametrize("name", ["saw of fact 4", "leaky", "tanh, steep diagonal", "gamma < 0"])
def test_implicit_networks_are_judged_by_proved_bounds(name: str) -> None:
    """A threshold just above and just below what the centre gives."""
    case = CONTRACTING[name]
    network = StoredNetwork.from_arrays(*case.arrays, activation=case.activation, eta=case.eta)
    y = float(network.predict(torch.zeros(1, case.inputs))[0, 0])
    size = 1e-4 * (1 + abs(y))
    found = verify(network, box_property(case, f"(>= Y_0 {y - size:.17f})"), 60)
    assert found.result is Result.SAT
    assert found.counterexample is not None
    assert found.counterexample.y[0] >= y - size
    far = verify(network, box_property(case, "(>= Y_0 1e9)"), 60)
    assert far.result is Result.UNSAT


@pytest.mark.parametrize("name", ["rotation", "saw of fact 4", "lben"])
def test_monotone_networks_are_verified(name: str) -> None:
    """They are not contracting: bounds and counterexamples rest on the other proof."""
    case = MONOTONE[name]
    network = StoredNetwork.from_arrays(*case.arrays, activation=case.activation, Lambda=case.eta)
    y = float(network.predict(torch.zeros(1, case.inputs))[0, 0])
    found = verify(network, box_property(case, f"(<= Y_0 {y + 0.01:.17f})"), 60)
    assert found.result is Result.SAT
    assert found.counterexample is not None
    assert found.counterexample.y[0] <= y + 0.01
    assert verify(network, box_property(case, "(<= Y_0 -1e9)"), 60).result is Result.UNSAT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark: networks and properties, some of them packed, two of them unusable."""
    bench = tmp_path / "toys"
    bench.mkdir()
    write(bench, abs_model(), "abs.onnx.gz")
    write(bench, model([node("Sigmoid", "x", "y")], [1, 1]), "other.onnx")
    (bench / "props").mkdir()
    for name, formula in (("far", "(>= Y_0 2.5)"), ("near", "(>= Y_0 1)"), ("strict", "(> Y_0 1)")):
        text = on_abs("-1", "1", formula)
        (bench / "props" / f"{name}.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    (bench / "instances.csv").write_text(
        "abs.onnx,props/far.vnnlib,60\nabs.onnx, props/near.vnnlib,116.5\n\n"
        "other.onnx,props/far.vnnlib,60\nabs.onnx,props/strict.vnnlib,60\n"
        "nothing.onnx,props/far.vnnlib,60\nabs.onnx.gz,props/far.vnnlib.gz,60\n"
    )
    return bench


WANTED = ["unsat", "sat", "error", "error", "error", "unsat"]


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_instances_give_a_line_each(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "results.csv"
    results = run_instances(
        folder / "instances.csv", out, report=lambda *told: said.append(told[2].reason)
    )
    assert results == WANTED
    rows = rows_of(out)
    assert [row[4] for row in rows] == WANTED
    assert {len(row) for row in rows} == {6}
    assert rows[1][:3] == ["toys", "abs.onnx", "props/near.vnnlib"]
    assert all(float(row[3]) >= 0 and float(row[5]) >= 0 for row in rows)
    assert [bool(reason) for reason in said] == [False, False, True, True, True, False]
    assert "Sigmoid" in said[2]
    [counterexample] = (tmp_path / COUNTEREXAMPLES).iterdir()
    assert counterexample.read_text().startswith("sat\n((X_0 ")


def test_a_stopped_run_continues_behind_its_last_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    run_instances(folder / "instances.csv", out)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    done: list[int] = []
    for kept in (b"", lines[0], lines[0] + lines[1][:20], b"".join(lines[:5]), whole):
        out.write_bytes(kept)
        done.clear()
        run_instances(folder / "instances.csv", out, report=lambda *told: done.append(told[0]))
        assert len(done) == 6 - kept.count(b"\n")
        before = csv.reader(whole.decode().splitlines())
        assert [[*row[:3], row[4]] for row in rows_of(out)] == [
            [*row[:3], row[4]] for row in before
        ]
        assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


@pytest.mark.parametrize(
    "held",
    [
        "toys,abs.onnx,props/near.vnnlib,0,unsat,0\n",
        "others,abs.onnx,props/far.vnnlib,0,unsat,0\n",
        "toys,abs.onnx,props/far.vnnlib,0,perhaps,0\n",
        "toys,abs.onnx,props/far.vnnlib,0,unsat\n",
        "my notes\n",
        "\x00\xff\n",
    ],
)
def test_results_of_others_are_left_alone(held: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    out.write_text(held, "latin-1")
    with pytest.raises(OutputError, match=r"results\.csv"):
        run_instances(folder / "instances.csv", out)
    assert out.read_text("latin-1") == held


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no instance"),
        ("a.onnx,b.vnnlib\n", "line 1"),
        ("a.onnx,b.vnnlib,10\na.onnx,,10\n", "line 2"),
        ("a.onnx,b.vnnlib,soon\n", "line 1"),
        ("a.onnx,b.vnnlib,0\n", "line 1"),
        ("a.onnx,b.vnnlib,-1\n", "line 1"),
        ("a.onnx,b.vnnlib,nan\n", "line 1"),
        ("a.onnx,b.vnnlib,inf\n", "line 1"),
        ("a,b,1,2\n", "line 1"),
    ],
)
def test_bad_tables_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_instances(path)


def test_the_command_prints_the_verdict_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, abs_model(), "abs.onnx")
    for formula, wanted in (
        ("(>= Y_0 2.5)", "unsat"),
        ("(>= Y_0 1)", "sat"),
        ("(<= Y_0 0.3)", "sat"),
    ):
        prop = tmp_path / f"{wanted}.vnnlib"
        prop.write_text(on_abs("-1", "1", formula))
        words = ("--network", str(tmp_path / "abs.onnx"), "--property", str(prop))
        assert run("verify", *words, "--timeout", "60") == 0
        said = capsys.readouterr()
        assert said.out.splitlines()[0] == wanted
        assert "real arithmetic on the weights as stored" in said.err
        if wanted == "sat":
            assert re.fullmatch(r"sat\n\(\(X_0 \S+\)\n\(Y_0 \S+\)\n\(Y_1 \S+\)\)\n", said.out)
            x, y = (float(v) for v in re.findall(r"_0 ([^)]+)\)", said.out))
            assert abs(x) == y
        else:
            assert said.out == "unsat\n"


def test_a_counterexample_is_written_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As decimals where they end: the float64 nearest to 0.1 is not 0.1, which is the box."""
    write(tmp_path, abs_model(), "abs.onnx")
    prop = tmp_path / "p.vnnlib"
    words = ("verify", "--network", str(tmp_path / "abs.onnx"), "--property", str(prop))
    for low, high, shown in (
        ("0.1", "0.1", "0.1"),
        ("1e-3", "1e-3", "0.001"),
        ("1e3", "1e3", "1000"),
    ):
        prop.write_text(on_abs(low, high, "(>= Y_0 0)"))
        assert run(*words) == 0
        assert f"((X_0 {shown})\n" in capsys.readouterr().out
    third = on_abs("0", "1", "(>= Y_0 0)").replace("(>= X_0 0)", "(>= (* 3 X_0) 1)")
    prop.write_text(third.replace("(<= X_0 1)", "(<= (* 3 X_0) 1)"))
    assert run(*words) == 0
    assert "((X_0 (/ 1 3))\n" in capsys.readouterr().out
    prop.write_text(on_abs("0.1", "0.3", "(>= Y_0 0)"))
    assert run(*words) == 0
    [shown] = re.findall(r"X_0 ([^)]+)\)", capsys.readouterr().out)
    assert Fraction("0.1") <= Fraction(shown) <= Fraction("0.3")


def test_models_of_this_package_are_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CONTRACTING["zero W"]
    W, U, b, C, c = case.arrays
    np.savez(tmp_path / "net.npz", W=W, U=U, b=b, C=C, c=c)
    names = [f"X_{i}" for i in range(case.inputs)] + [f"Y_{j}" for j in range(case.outputs)]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    text += "".join(f"(assert (and (<= X_{i} 1) (>= X_{i} -1)))" for i in range(case.inputs))
    (tmp_path / "p.vnnlib").write_text(f"{text}(assert (>= Y_0 1000))")
    words = ["verify", "--network", str(tmp_path / "net.npz")]
    words += ["--property", str(tmp_path / "p.vnnlib")]
    assert run(*words) == 2  # no activation named
    assert capsys.readouterr().out == ""
    assert run(*words, "--activation", "relu") == 0
    assert capsys.readouterr().out == "unsat\n"
    assert load_network(tmp_path / "net.npz", "relu").scale == 1


BAD_WORDS = [
    ([], "needs --network and --property"),
    (["--network", "abs.onnx"], "needs --network and --property"),
    (["--instances", "i.csv"], "needs --network and --property"),
    (["--network", "abs.onnx", "--property", "p.vnnlib", "--out", "r.csv"], "needs --network"),
    (["--network", "abs.onnx", "--property", "p.vnnlib", "--timeout", "0"], "timeout must be"),
    (["--network", "abs.onnx", "--property", "p.vnnlib", "--timeout", "nan"], "--timeout"),
    (["--network", "abs.onnx", "--property", "wide.vnnlib"], "speaks of 2 inputs"),
    (["--network", "abs.onnx", "--property", "strict.vnnlib"], "strict inequality"),
    (["--network", "abs.onnx", "--property", "open.vnnlib"], "X_0 has no upper bound"),
    (["--network", "abs.onnx", "--property", "none.vnnlib"], "does not exist"),
    (["--network", "sigmoid.onnx", "--property", "p.vnnlib"], "Sigmoid"),
    (["--network", "p.vnnlib", "--property", "p.vnnlib"], "unknown ending"),
    (["--instances", "none.csv", "--out", "r.csv"], "does not exist"),
    (["--instances", "p.vnnlib", "--out", "r.csv"], "a line is onnx,vnnlib,seconds"),
    (["--instances", "i.csv", "--out", "no/r.csv"], "cannot write"),
]


@pytest.mark.parametrize(("words", "said"), BAD_WORDS)
def test_bad_input_is_one_line_and_no_verdict(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, abs_model(), "abs.onnx")
    write(tmp_path, model([node("Sigmoid", "x", "y")], [1, 1]), "sigmoid.onnx")
    Path("p.vnnlib").write_text(on_abs("-1", "1", "(>= Y_0 1)"))
    Path("strict.vnnlib").write_text(on_abs("-1", "1", "(> Y_0 1)"))
    wide = on_abs("-1", "1", "(and (>= Y_0 1) (>= X_1 0) (<= X_1 1))")
    Path("wide.vnnlib").write_text(f"(declare-const X_1 Real){wide}")
    half = on_abs("-1", "1", "(>= Y_0 1)").replace("(assert (<= X_0 1))", "")
    Path("open.vnnlib").write_text(half)
    Path("i.csv").write_text("abs.onnx,p.vnnlib,60\n")
    assert run("verify", *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1


def test_a_network_without_a_unique_fixed_point_has_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, matrix = np.ones(1), np.ones((1, 1))
    np.savez(
        tmp_path / "net.npz", W=2 * matrix, U=matrix, b=one, C=matrix, c=one, activation="relu"
    )
    text = on_abs("-1", "1", "(>= Y_0 1)").replace("(declare-const Y_1 Real)", "")
    (tmp_path / "p.vnnlib").write_text(text)
    words = ("--network", str(tmp_path / "net.npz"), "--property", str(tmp_path / "p.vnnlib"))
    assert run("verify", *words) == 1
    assert capsys.readouterr().out == ""


def test_the_command_runs_a_benchmark(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--instances", str(folder / "instances.csv"), "--out", str(tmp_path / "r.csv"))
    assert run("verify", *words, "--timeout", "30") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 7
    assert "3 error, 1 sat, 2 unsat" in said.err
    assert [row[4] for row in rows_of(tmp_path / "r.csv")] == WANTED


def test_hostile_files_leave_the_process_whole(tmp_path: Path) -> None:
    """In a process of its own: a crash of the interpreter would take the tests with it."""
    write(tmp_path, abs_model(), "abs.onnx")
    (tmp_path / "deep.vnnlib").write_text("(" * 10**6)
    words = ("--network", str(tmp_path / "abs.onnx"), "--property", str(tmp_path / "deep.vnnlib"))
    done = subprocess.run(
        [sys.executable, "-m", "equicert", "verify", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["mnist-net_256x2", "mnist-net_256x4"])
def test_outside_properties_are_not_contradicted(name: str, problems_dir: Path) -> None:
    bench = problems_dir / "vnncomp" / "mnist_fc"
    with (bench / "expected.csv").open() as lines:
        expected = [
            (row["prop"], row["verdict"]) for row in csv.DictReader(lines) if row["net"] == name
        ]
    read = load_network(bench / f"{name}.onnx")
    made = onnx.load_model_from_string(gzip.decompress((bench / f"{name}.onnx.gz").read_bytes()))
    for prop, wanted in expected[1:12:5]:
        stated = load_property(bench / f"{prop}.vnnlib")
        found = verify(read.network, stated, 0.5, read.scale)
        if wanted != "unknown" and found.result in (Result.SAT, Result.UNSAT):
            assert found.result.value == wanted, prop
        if found.counterexample is not None and name == "mnist-net_256x2":
            assert stated.contains(found.counterexample.x, evaluate(made, found.counterexample.x))
