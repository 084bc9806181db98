"""`reproduce figure2` counts what the verdict files say, resumes after a kill at any stage to the
same numbers, and never hides an attack that broke what was certified.
"""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import studies
from command import run
from equicert.attacks import PGD
from equicert.data import DataSet, load_data
from equicert.errors import ConfigError, OutputError
from equicert.experiments import outcomes
from equicert.experiments.figure2 import tables
from equicert.experiments.figure2.definition import MODELS, Figure2, grid
from equicert.experiments.figure2.measurements import Measured, Row, measure
from equicert.experiments.figure2.pictures import figure2_picture
from equicert.experiments.figure2.records import record
from equicert.experiments.outcomes import Spread
from equicert.experiments.pages import verdict_sentence
from equicert.experiments.published import FIGURE2
from equicert.experiments.reports import Request
from equicert.experiments.verdicts import (
    Contradiction,
    attacks_on_proved,
    largest_proved,
)
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.schedules import TrainConfig
from studies import Executioner, KilledError, lines_of, tampered, timeless

TINY = Figure2(
    TrainConfig(hidden=4, epochs=2, learning_rate=0.05, batch_size=20, evaluate_samples=5),
    seeds=2,
    radii=(0.0, 0.05, 0.1),
    limit=15,
    attacked=6,
    pgd=PGD(3),
)
ONE = replace(TINY, seeds=1)


@pytest.fixture(scope="module")
def whole(blobs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted."""
    out = tmp_path_factory.mktemp("figure2") / "whole"
    TINY.run(blobs, out)
    return out


def numbers(out: Path, data: DataSet, study: Figure2 = TINY) -> dict[str, Any]:
    return record(study, data, measure(study, out), Request("", "", quick=False))


def test_numbers_are_those_of_the_verdict_files(whole: Path, blobs: DataSet) -> None:
    found = numbers(whole, blobs)
    assert found["data"]["digest"] == blobs.digest
    assert found["data"]["samples"] == 15
    assert [(m["seed"], m["model"]) for m in found["models"]] == [
        (seed, name) for seed in (0, 1) for name in MODELS
    ]
    for model in found["models"]:
        place = whole / f"seed-{model['seed']}" / model["model"].replace(" ", "-")
        assert load_model(place / "train" / "model.safetensors").digest == model["digest"]
        for row in model["rows"]:
            name = f"eps-{row['eps']:g}"
            lines = lines_of(place, f"certify/{name}")
            assert row["certified"] == sum(v["status"] == "certified" for v in lines) / 15
            assert sum(v["predicted"] == v["label"] for v in lines) / 15 == model["clean"]
            if row["eps"] == 0:
                assert row["unbroken"] == model["clean"]
                continue
            attacked = lines_of(place, f"attack/{name}")
            assert row["attacked"] == len(attacked) == (15 if row["eps"] == 0.1 else 6)
            unbroken = [v["status"] == "unbroken" for v in attacked]
            assert row["unbroken"] == sum(unbroken) / len(unbroken)
            assert row["unbroken_first"] == sum(unbroken[:6]) / 6
            certified = [v["status"] == "certified" for v in lines]
            assert row["certified_first"] == sum(certified[:6]) / 6
            assert row["certified_first"] <= row["unbroken_first"]
        unclipped = lines_of(place, "certify-unclipped/eps-0.1")
        share = sum(v["status"] == "certified" for v in unclipped) / 15
        assert model["certified_unclipped"] == share <= model["main"]["certified"]
        seconds = sum(v["seconds"] for v in lines_of(place, "certify/eps-0.1"))
        assert model["certify_seconds"] == seconds > 0
        epochs = [v["seconds"] for v in read_lines(place / "train" / "metrics.jsonl")]
        assert model["epoch_seconds"] == statistics.median(epochs)
    assert found["certified_yet_broken"] == 0
    assert sum(model["attacks_in_vain"] for model in found["models"]) > 0
    assert json.loads(json.dumps(found, allow_nan=False)) is not None


def test_unclipped_boxes_are_not_clipped_and_the_others_are(whole: Path) -> None:
    place = whole / "seed-0" / "robust"
    domains = {
        name: json.loads((place / name / "eps-0.1" / "summary.json").read_text())["domain"]
        for name in ("certify", "certify-unclipped", "attack")
    }
    assert domains == {"certify": [0.0, 1.0], "certify-unclipped": None, "attack": [0.0, 1.0]}


def test_models_differ_in_eps_and_kappa_only() -> None:
    robust, ordinary = (TINY.training(name, 5).to_mapping() for name in MODELS)
    assert robust == replace(TINY.config, seed=5).to_mapping()
    assert {k for k in robust if robust[k] != ordinary[k]} == {"eps", "kappa"}
    assert ordinary["eps"] == ordinary["kappa"] == 0


def test_spread_over_seeds(whole: Path, blobs: DataSet) -> None:
    models = measure(TINY, whole)
    over = numbers(whole, blobs)["over_seeds"]
    for name in MODELS:
        shares = [m.main.certified for m in models if m.model == name]
        assert over[name]["certified"] == {
            "mean": pytest.approx(sum(shares) / 2),
            "std": pytest.approx(abs(shares[0] - shares[1]) / math.sqrt(2)),
            "least": min(shares),
            "greatest": max(shares),
        }
        for k, row in enumerate(over[name]["rows"]):
            values = [m.rows[k].unbroken for m in models if m.model == name]
            assert row["unbroken"]["mean"] == pytest.approx(sum(values) / 2)
    assert Spread.of([0.25]) == Spread(0.25, None, 0.25, 0.25)
    assert Spread.of([1.0, 2.0, 6.0]).std == pytest.approx(math.sqrt(7))


@pytest.mark.parametrize(
    ("method", "call"),
    [
        *[("stage", 1), ("step", 1), ("step", 3), ("epoch", 1), ("epoch", 2), ("samples", 1)],
        *[
            ("samples", 4),
            ("samples", 6),
            ("stage", 8),
            ("stage", 9),
            ("epoch", 3),
            ("samples", 10),
        ],
    ],
)
def test_killed_study_resumes_to_the_same_numbers(
    method: str, call: int, whole: Path, blobs: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        ONE.run(blobs, out, progress=Executioner(method, call))
    ONE.run(blobs, out, resume=True)
    assert timeless(numbers(out, blobs, ONE)) == timeless(numbers(whole, blobs, ONE))
    for stage in ONE.stages():
        if stage.task is not None:
            assert timeless(lines_of(out, stage.folder)) == timeless(lines_of(whole, stage.folder))


def test_finished_stages_are_not_repeated(blobs: DataSet, tmp_path: Path) -> None:
    before = Executioner("", -1)
    ONE.run(blobs, tmp_path, progress=before)
    count = len(list(ONE.stages()))
    assert [line for line in before.heard if "seed" in line] == [
        f"{k}/{count} {stage}" for k, stage in enumerate(ONE.stages(), 1)
    ]
    assert before.heard.count("epoch") == 4
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")}
    after = Executioner("", -1)
    ONE.run(blobs, tmp_path, resume=True, progress=after)
    assert len(after.heard) == count  # stages are named, nothing is done in them
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")} == kept


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": 3}, "seeds is 2 there and 3 here"),
        ({"limit": 14}, "limit is 15 there and 14 here"),
        ({"config": replace(TINY.config, kappa=0.5)}, "training_kappa is 0.75 there and 0.5 here"),
        ({"pgd": PGD(4)}, "pgd is"),
    ],
)
def test_folder_of_another_study_is_refused(
    change: dict[str, Any], named: str, whole: Path, blobs: DataSet
) -> None:
    with pytest.raises(OutputError, match=named):
        replace(TINY, **change).run(blobs, whole, resume=True)


def test_used_folder_is_refused_without_resume(whole: Path, blobs: DataSet) -> None:
    with pytest.raises(OutputError, match="holds this very run already; resume it"):
        TINY.run(blobs, whole)
    other = replace(blobs, x_test=blobs.x_test[::-1].copy())
    with pytest.raises(OutputError, match="data_digest is"):
        TINY.run(other, whole, resume=True)
    with pytest.raises(OutputError, match="domain is"):
        TINY.run(replace(blobs, domain=None), whole, resume=True)
    with pytest.raises(OutputError, match="holds another run: 'train', not 'figure2'"):
        TINY.run(blobs, whole / "seed-0" / "robust" / "train", resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"limit": 0}, "limit must be"),
        ({"attacked": 0}, "attacked must be"),
        ({"radii": (0.1, 0.2)}, "radii must begin with 0"),
        ({"radii": ()}, "radii must begin with 0"),
        ({"radii": (0.0, 0.1, 0.1)}, "radii must begin with 0 and increase"),
        ({"eps": 0.07}, "eps must be one of the radii"),
        ({"eps": 0.0}, "eps must be one of the radii"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


def test_grid_holds_the_published_radius_exactly() -> None:
    assert grid() == tuple(k / 100 for k in range(21))
    assert 0.1 in grid(0.1)
    assert grid(0.205, 2)[-1] == 0.2
    assert max(grid(1)) == 1
    assert Figure2().config == TrainConfig()
    for eps in (0.09, 1.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="eps_max must be in"):
            grid(eps)


def line(index: int, status: str) -> dict[str, Any]:
    return {"index": index, "status": status, "method": "pgd"}


def test_attacks_on_certificates_are_counted() -> None:
    proved = largest_proved([(0, 0.05), (0, 0.15), (0, 0.1), (1, 0.1)])
    assert proved == {0: 0.15, 1: 0.1}
    attacks = [
        (0.1, [line(0, "broken"), line(1, "unbroken"), line(2, "broken")]),
        (0.15, [line(0, "misclassified"), line(1, "broken"), line(2, "unbroken")]),
        (0.2, [line(0, "broken"), line(1, "broken"), line(2, "broken")]),
    ]
    assert attacks_on_proved(proved, attacks) == (
        1,
        [Contradiction(0, 0.15, "pgd", 0.1), Contradiction(0, 0.15, "pgd", 0.15)],
    )


def made(model: str, seed: int, shares: tuple[float, ...]) -> Measured:
    """A model with these certified shares at 0, 0.05 and 0.1."""
    rows = tuple(
        Row(eps, share, min(1.0, share + 0.05), 6, share, min(1.0, share + 0.04), 6)
        for eps, share in zip(TINY.radii, shares, strict=True)
    )
    return Measured(model, seed, "d", 15, 0.9, rows, rows[-1], 0.1, 2.0, 3.0, 4.0, 7, ())


MADE = [
    made("robust", 0, (0.9, 0.8, 0.7)),
    made("robust", 1, (0.9, 0.82, 0.74)),
    made("not robust", 0, (0.95, 0.3, 0.0)),
    made("not robust", 1, (0.95, 0.2, 0.0)),
]


def test_table_sets_measured_values_beside_published_ones() -> None:
    rows = {(model, what): cells for model, what, *cells in tables.comparison(TINY, MADE)}
    certified = ["83.13 %", "72.00 % ± 2.83 [70.00, 74.00]"]
    assert rows["robust", "certified by (14) at eps = 0.1"] == certified
    assert rows["robust", "unbroken by PGD at eps = 0.1"][0] == "85.84 %"
    assert rows["robust", "clean"] == ["95.40 %", "90.00 % ± 0.00 [90.00, 90.00]"]
    assert rows["robust", "certified at eps = 0.1, boxes not clipped"][0] == ""
    assert rows["robust", "an epoch"] == ["23.9 s on one P100 GPU", "2 s"]
    assert rows["robust", "certifying 15 images at eps = 0.1"] == [
        "11.29 s for 10 000 on one P100 GPU",
        "3 s",
    ]
    assert rows["not robust", "certified by (14) at eps = 0.1"][0] == "0.00 %"
    assert rows["not robust", "unbroken by PGD at eps = 0.1"] == [
        "8.04 %",
        "5.00 % ± 0.00 [5.00, 5.00]",
    ]
    assert rows["not robust", "clean"][0] == rows["not robust", "an epoch"][0] == ""
    assert FIGURE2["robust"].certified == 0.8313
    assert "Certified and yet broken: 0 " in verdict_sentence(MADE)
    [alone] = [
        cells[-1]
        for model, what, *cells in tables.comparison(TINY, MADE[::2])
        if (model, what[:9]) == ("robust", "certified") and "(14)" in what
    ]
    assert alone == "70.00 %"


def test_picture_is_a_function_of_the_numbers() -> None:
    drawn = figure2_picture(MADE, "blobs", "units")
    assert drawn.startswith(b"\x89PNG")
    assert figure2_picture(MADE, "blobs", "units") == drawn
    assert len(drawn) < 150_000
    other = [MADE[0], made("robust", 1, (0.9, 0.82, 0.75)), *MADE[2:]]
    assert figure2_picture(other, "blobs", "units") != drawn
    assert figure2_picture(MADE, "blobs", "units", published=False) != drawn
    assert figure2_picture(MADE[::2], "one seed", "units").startswith(b"\x89PNG")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with blobs.npz in it, the process inside, and a recipe for four hidden units."""
    monkeypatch.chdir(tmp_path)
    studies.save_blobs("blobs.npz")
    monkeypatch.setattr("equicert.cli.reproduce.preset", lambda _, **k: replace(TINY.config, **k))
    return tmp_path


WORDS = ["reproduce", "figure2", "--data", "blobs.npz", "--out", "f", "--quick", "--epochs", "1"]


def test_command_writes_everything_and_resumes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--limit", "5", "--eps-max", "0.1", "--threads", "1"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "stage 1 of 26, seed 0, robust model: training" in printed.err
    assert "83.13 %" in printed.out
    assert "This is the quick version" in printed.out
    found = json.loads((here / "f" / "results.json").read_text())
    assert found["data"]["digest"] == load_data("blobs.npz").digest
    assert found["quick"] is True
    assert found["settings"]["radii"] == [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert found["settings"]["training"]["robust"]["epochs"] == 1
    assert found["machine"]["threads"] == 1
    assert found["machine"]["processor"]
    assert found["versions"]["torch"]
    page = (here / "f" / "results.md").read_text("utf-8")
    share = found["over_seeds"]["robust"]["certified"]["mean"]
    for text in ("This is the quick version", "83.13 %", f"{100 * share:.2f} %", "0.02"):
        assert text in page
    assert found["command"] in page
    assert found["command"].startswith("equicert reproduce figure2 --data blobs.npz --out f ")
    assert found["command"].endswith("--quick")
    picture = (here / "f" / "figure2.png").read_bytes()
    assert run(*words, "--quiet") == 2
    assert "resume it" in capsys.readouterr().err
    assert run(*words, "--quiet", "--resume") == 0
    assert capsys.readouterr() == ("", "")
    again = json.loads((here / "f" / "results.json").read_text())
    assert timeless(again) == timeless(found)
    assert again["command"] == found["command"]
    assert (here / "f" / "figure2.png").read_bytes() == picture


def test_broken_certificate_is_an_error_after_writing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outcomes, "read_lines", tampered)
    words = [*WORDS, "--limit", "5", "--eps-max", "0.1"]
    assert run(*words) == 1
    printed = capsys.readouterr()
    assert "is certified up to eps" in printed.err
    found = json.loads((here / "f" / "results.json").read_text())
    assert found["certified_yet_broken"] > 0
    assert f"Certified and yet broken: {found['certified_yet_broken']} (it" in printed.out
    listed = [c for model in found["models"] for c in model["contradictions"]]
    assert len(listed) == found["certified_yet_broken"]
    assert {"index", "proved", "method", "eps"} == set(listed[0])
    assert (here / "f" / "results.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figur2"], "unknown experiment 'figur2'; did you mean 'figure2'?"),
        (["figure2", "--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["figure2", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["figure2", "--limit", "0"], "limit must be an integer >= 1, got 0"),
        (["figure2", "--threads", "0"], "threads must be an integer >= 1, got 0"),
        (["figure2", "--eps-max", "0.05"], "eps_max must be in [0.1, 1], got 0.05"),
        (["figure2", "--epoks", "3"], "did you mean 'epochs'?"),
        (["figure2", "--data", "mnits"], "did you mean 'mnist'?"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--data" in words else ["--data", "blobs.npz"]
    assert run("reproduce", *words, *given, "--out", "f") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "f").exists()
