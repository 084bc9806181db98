"""The benchmark suite works at tiny size, and its page shows the numbers that it measured.

No test says how long anything takes.
"""

import argparse
import importlib.util
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import (
    bounding,
    certificates,
    convolutions,
    deciding,
    lipschitz,
    memory,
    scaling,
    slow,
    solves,
    step,
    verdicts,
)
from benchmarks.__main__ import _parser, kept, write
from benchmarks.markdown import bytes_text, ms, number, seconds, times
from benchmarks.page import page
from benchmarks.picture import speed_picture
from benchmarks.products import Product, Products, Size, solve_products, step_products
from benchmarks.subjects import Missed, random_network, robust, trained, variant
from benchmarks.timing import interleaved
from equicert.bounds import Dual
from equicert.data import DataSet, load_data
from equicert.experiments.provenance import as_json
from equicert.models import save_model
from equicert.network import ImplicitNetwork
from equicert.runs import versions
from equicert.solvers import Average, Picard

HIDDEN = 7
SIZES = bounding.Sizes(hidden=(3, 9), batches=(1, 12), nodes=(1, 3))
CONVOLVED = convolutions.Sizes(channels=2, front="2x4/2", images=20, epochs=1, batch=10, samples=5)
SWEEPS = scaling.Sweeps(hidden=(3, 5), batches=(1, 4), tolerances=(1e-2, 1e-6), batch=5)


@pytest.fixture(scope="module")
def data() -> DataSet:
    digits = load_data("digits")
    few = {name: getattr(digits, name)[:300] for name in ("x_train", "y_train")}
    return replace(digits, **few, x_test=digits.x_test[:30], y_test=digits.y_test[:30])


@pytest.fixture(scope="module")
def network(data: DataSet) -> ImplicitNetwork:
    return random_network(HIDDEN, data)


def convolved(data: DataSet, work: Path) -> dict[str, Any]:
    """The memory is this process's: another one takes seconds to start."""

    def here(command: list[str], **_: object) -> SimpleNamespace:
        assert command[1:3] == ["-m", "benchmarks.convolutions"]
        return SimpleNamespace(stdout=json.dumps(convolutions._alone(command[-1])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions.subprocess, "run", here)
        return convolutions.measure(data, work, 1, 0.0, CONVOLVED, alone=["convolution"])


@pytest.fixture(scope="module")
def results(
    data: DataSet, network: ImplicitNetwork, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("work")
    cases = ((0.0, 1e-2), (0.05, 1e-8))
    stored = network.store()
    saved = work / "model.safetensors"
    save_model(saved, stored)
    return {
        "command": "python -m benchmarks",
        "versions": versions(),
        "machine": {"processor": "abacus", "logical_cores": 1, "threads": 1},
        "settings": {
            "data": {"name": data.name, "digest": data.digest, "inputs": data.inputs},
            "epochs": 1,
            "seed": 0,
            "rounds": 1,
            "training_seconds": 1.0,
            "contraction_rate": stored.contraction.rate,
            "hidden": HIDDEN,
        },
        "created": "before",
        "step": step.measure(network, data, 1, 0.0, batch=10),
        "lipschitz": lipschitz.measure(data, work, 1, 0.0, epochs=1, batch=10),
        "solves": solves.measure(network, data, work, 1, 0.0, epochs=1, batch=20),
        "verdicts": verdicts.measure(stored, data, 1, 0.0),
        "certificates": certificates.measured(stored, data, [], work, 1),
        "deciding": deciding.decided(stored, saved, data, 6, []),
        "bounding": bounding.measure(data, 1, 0.0, sizes=SIZES),
        "scaling": scaling.measure(network, data, 1, 0.0, SWEEPS),
        "slow": slow.measure(stored, 1, 0.1, rates=(0.5, 0.99), batch=3),
        "memory": memory.measure(network, data, cases, alone=cases[:1]),
        "convolutions": convolved(data, work),
        "seconds": 60.0,
    }


def test_contestants_take_turns() -> None:
    heard: list[str] = []
    found = interleaved({name: lambda name=name: heard.append(name) for name in "ab"}, 3)
    assert heard == ["a", "b"] * 4  # once unmeasured
    assert [found[name].rounds for name in "ab"] == [3, 3]
    assert interleaved({"a": lambda: None}, 5, budget=0.0)["a"].rounds == 1


def test_products_of_a_joint_solve_are_those_of_the_equations() -> None:
    size = Size(batch=4, n=3, r=5, q=2)
    counted = Products(solve_products(size, 7), torch.float32).flops
    assert counted == 2 * 3 * (4 * 5 * 3) + 7 * 2 * 3 * (4 * 3 * 3)  # three of each shape
    counted = Products(step_products(size, 7, 2), torch.float32).flops
    with_u, with_w = 6 * 4 * 5 * 3, 3 * (7 + 1 + 2 + 1) * 4 * 3 * 3
    read_out = (2 + 4) * 4 * 3 * 2 + 3 * 4 * 3 * 2**2
    assert counted == 2 * (with_u + with_w + read_out)
    Products([Product(2, 3, 4, 5)], torch.float64)()


def test_page_shows_what_was_measured(results: dict[str, Any]) -> None:
    text = page(results, "results")
    for entry in results["step"]["contestants"].values():
        for part in (ms(entry["time"]["cpu"]), number(entry["steps"]["adjoint"])):
            assert f"| {part} |" in text
    for entry in results["verdicts"]["times"].values():
        assert seconds(entry["cpu"]) in text
    for name in ("hidden", "batch", "tolerance"):
        for row in results["scaling"][name]:
            assert f"| {row[name]:g} | {ms(row['times']['solve']['cpu'])} |" in text
    for entry in results["memory"]["training"]:
        assert bytes_text(entry["saved_bytes"]) in text
    assert "abacus" in text


def test_page_shows_lipschitz_steps_and_solvers(results: dict[str, Any]) -> None:
    text = page(results, "results")
    for bound in ("weighted", "derived"):
        picard, average = (results["lipschitz"]["bounds"][bound][s] for s in lipschitz.SOLVERS)
        assert picard["missed"] == 0
        assert f"| {bound}, Picard | {ms(picard['time']['cpu'])} |" in text
        assert times(average["time"]["cpu"] / picard["time"]["cpu"]) in text
    for rows in (results["solves"]["robust"], results["solves"]["monotone"]):
        for name, row in rows.items():
            cell = row.get("absent") or (ms(row["time"]["cpu"]) if "time" in row else "not reached")
            assert f"| {name} | {cell} |" in text


def test_solvers_are_timed_at_an_equal_residual(results: dict[str, Any]) -> None:
    robust, monotone = results["solves"]["robust"], results["solves"]["monotone"]
    timed = [row for row in (*robust.values(), *monotone.values()) if "time" in row]
    assert all(row["residual"] <= solves.THRESHOLD for row in timed)
    assert {"Picard", "Anderson", "average"} <= {name for name in robust if "time" in robust[name]}
    assert "time" in monotone["Peaceman-Rachford"]
    here = importlib.util.find_spec("torchdeq") is not None
    assert here == ("absent" not in robust["torchdeq broyden"])


def test_a_threshold_that_is_not_attained_is_told(
    network: ImplicitNetwork, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = solves.Subject(network, torch.from_numpy(data.x_train[:3]).float())
    state = subject.ours(Picard())(1e-6).value
    assert subject.residual(state) < 1e-5 < subject.residual(torch.zeros_like(state))
    monkeypatch.setattr(solves, "OURS", {"lazy": Average(1e-9)})
    monkeypatch.setattr(solves.importlib.util, "find_spec", lambda _: None)
    rows = solves._rows(subject, 1, 0.0)
    assert "time" not in rows["lazy"]
    assert rows["lazy"]["residual"] > solves.THRESHOLD
    assert rows["torchdeq anderson"] == {"absent": "torchdeq is missing"}
    found = {"settings": {"batch": 3, "hidden": HIDDEN, "threshold": 1e-4, "epochs": 1}}
    text = solves.solves_section(found | {"robust": rows, "monotone": {}})
    assert any(line.startswith("| lazy | not reached |") for line in text)


def test_unconverged_solves_are_counted(network: ImplicitNetwork, data: DataSet) -> None:
    missed = Missed()
    lame = variant(network, Average(), policy=missed)
    lame.max_steps = 1
    lame(torch.from_numpy(data.x_train[:3]).float())
    assert (missed.samples, missed.of) == (3, 3)


def test_page_of_one_section_has_that_section(results: dict[str, Any]) -> None:
    others = ("step", "lipschitz", "verdicts", "solves", "scaling")
    text = page({key: value for key, value in results.items() if key not in others}, "results")
    assert "## Memory" in text
    assert "## Rigorous verdicts" not in text


def test_page_of_sections_without_the_network_does_not_speak_of_it(
    results: dict[str, Any],
) -> None:
    bare = {key: results[key] for key in ("command", "versions", "machine", "seconds", "deciding")}
    settings = {key: results["settings"][key] for key in ("data", "seed", "rounds")}
    text = page(bare | {"settings": settings}, "results")
    assert "## Deciding every sample" in text
    assert "trained network" not in text


def test_rigorous_and_plain_certify_alike(results: dict[str, Any]) -> None:
    certified = results["verdicts"]["certified"]
    assert certified["interval"] <= certified["plain"] <= certified["interval"] + 1


def test_saved_memory_does_not_grow_with_steps(results: dict[str, Any]) -> None:
    few, many = results["memory"]["training"]
    assert many["steps"]["forward"] > 20 * few["steps"]["forward"]
    assert many["saved_bytes"] == few["saved_bytes"] > 0
    assert many["peak_bytes"] < 1.5 * few["peak_bytes"]


def test_live_bytes_follow_what_is_freed() -> None:
    with memory.LiveBytes() as live:
        kept = torch.empty(0)
        for _ in range(3):
            kept = torch.zeros(100, dtype=torch.float32) + 1  # two tensors of 400 bytes, then one
        assert kept.sum() == 100
    assert 800 <= live.peak <= 1300
    history = []
    with memory.LiveBytes() as live:
        history += [torch.zeros(100, dtype=torch.float32) for _ in range(10)]
    assert live.peak == 4000 == sum(tensor.nbytes for tensor in history)


def test_written_files_fit_together(results: dict[str, Any], tmp_path: Path) -> None:
    write(results, tmp_path / "results", tmp_path / "performance.md")
    assert (tmp_path / "results" / "speed.json").read_text("utf-8") == as_json(results)
    assert "(results/speed.png)" in (tmp_path / "performance.md").read_text("utf-8")
    png = (tmp_path / "results" / "speed.png").read_bytes()
    assert png == speed_picture(results["scaling"])
    assert len(png) < 100_000
    with Image.open(BytesIO(png)) as image:
        assert image.size == (1200, 528)


def test_trained_network_is_reused(data: DataSet, tmp_path: Path) -> None:
    first, took = trained(data, robust(1), tmp_path)
    assert took > 0
    [folder] = tmp_path.iterdir()
    written = (folder / "checkpoint.pt").stat().st_mtime_ns
    again, _ = trained(data, robust(1), tmp_path)
    assert (folder / "checkpoint.pt").stat().st_mtime_ns == written
    assert torch.equal(first.U, again.U)
    trained(data, robust(2), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["--only", "step,speed"])
    assert "no such section: speed" in capsys.readouterr().err
    options: argparse.Namespace = _parser().parse_args(["--only", "step,memory"])
    assert options.only == ["step", "memory"]


def test_slow_networks_take_fewer_steps_by_anderson(results: dict[str, Any]) -> None:
    rows = {row["network"]: row["steps"] for row in results["slow"]["rows"]}
    assert rows.keys() == {"trained", "rate 0.5", "rate 0.99"}
    assert rows["rate 0.5"]["picard"] < rows["rate 0.99"]["picard"]
    assert rows["rate 0.99"]["anderson"] < rows["rate 0.99"]["picard"] / 3
    text = page(results, "results")
    assert all(number(steps["anderson"]) in text for steps in rows.values())


def test_page_shows_bounds_and_nodes_a_second(results: dict[str, Any]) -> None:
    text, found = page(results, "results"), results["bounding"]
    for kind, each in (("bounds", 1), ("nodes", 2)):
        assert [row["hidden"] for row in found[kind]] == list(SIZES.hidden)
        for row in found[kind]:
            for batch, timing in row["times"].items():
                assert number(each * int(batch) / timing["cpu"]) in text


def test_a_step_bounds_two_nodes_for_each_that_it_splits(data: DataSet) -> None:
    subject = bounding._Subject.of(random_network(9, data).store(), data, 2)
    assert subject.step(3)() == 6
    assert subject.bounds(12)().shape == (12,)


def test_every_sample_is_decided_stage_by_stage(results: dict[str, Any]) -> None:
    found = results["deciding"]
    assert sum(found["statuses"].values()) == found["settings"]["samples"] == 6
    assert found["statuses"]["certified"] + found["statuses"]["falsified"] > 0
    assert found["valid"]
    assert sum(stage["cpu"] for stage in found["stages"].values()) <= found["cpu"]
    text = page(results, "results")
    assert seconds(found["cpu"]) in text
    assert "finds all of them valid" in text
    assert not hasattr(Dual.over, "__wrapped__")  # measured no longer


def test_a_network_that_is_not_there_is_not_measured(
    data: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EQUICERT_PROBLEMS_DIR", str(tmp_path))
    found = deciding.measure(data, [])
    assert "is not there" in deciding.deciding_section(found)[-1]
    monkeypatch.delenv("EQUICERT_PROBLEMS_DIR")
    assert deciding.measure(data, []) == found


def test_convolutions_are_compared_with_their_matrices(results: dict[str, Any]) -> None:
    found, text = results["convolutions"], page(results, "results")
    assert found["states"]["convolution"] == found["states"]["matrix"] == 2 * 4 * 4
    step, verdicts = found["step"], found["certification"]
    assert step["convolution"]["steps"] == pytest.approx(step["matrix"]["steps"])
    assert step["average"]["steps"]["forward"] > step["convolution"]["steps"]["forward"]
    assert len({verdicts[name]["certified"] for name in ("convolution", "average", "matrix")}) == 1
    for entries in (step, verdicts):
        assert list(entries) == list(convolutions.NAMES)
        assert all(seconds(entry["time"]["cpu"]) in text for entry in entries.values())
        memory = entries["convolution"]["memory"]
        assert 0 < memory["before_bytes"] <= memory["most_bytes"]
        assert bytes_text(memory["most_bytes"]) in text
        assert (
            times(entries["matrix"]["time"]["cpu"] / entries["convolution"]["time"]["cpu"]) in text
        )


def test_matrices_of_convolutions_are_the_same_function(data: DataSet, tmp_path: Path) -> None:
    few = convolutions._few(data, CONVOLVED)
    networks, _ = convolutions.subjects(few, tmp_path, CONVOLVED)
    x = torch.from_numpy(few.x_test).float()
    one, other = networks["convolution"], networks["matrix"]
    assert torch.allclose(one(x), other(x), atol=1e-3)
    assert sum(p.numel() for p in other.parameters()) > sum(p.numel() for p in one.parameters())


def test_a_later_run_and_a_busy_machine_are_told(results: dict[str, Any]) -> None:
    later = results | {"command": "python -m benchmarks --only slow", "created": "later"}
    joined = kept(results, later | {"slow": results["slow"] | {"load": 7.3}}, ["slow"])
    assert joined["command"] == results["command"]
    text = page(joined, "results").split("## ")
    [told] = [section for section in text if section.startswith("Where Anderson")]
    assert "`python -m benchmarks --only slow`" in told
    assert "load average of 7.3" in told.replace("\n", " ")
    assert not any("machine was shared" in section for section in text if section != told)
