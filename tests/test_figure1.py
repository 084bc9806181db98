"""`reproduce figure1` counts what the verdict files say, resumes after a kill to the same numbers,
and finds the paper's statements wrong where its numbers are.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import studies
from command import run
from equicert.attacks import PGD
from equicert.data import DataSet
from equicert.errors import ConfigError, OutputError
from equicert.experiments import outcomes as measuring
from equicert.experiments.figure1 import tables
from equicert.experiments.figure1.definition import (
    BY_FGSM,
    BY_PGD,
    INTERVAL,
    MON,
    PER_MARGIN,
    PRINTED,
    SHARP,
    TABLE,
    Figure1,
    name_of_lambda,
)
from equicert.experiments.figure1.pictures import figure1_picture
from equicert.experiments.figure1.report import report
from equicert.experiments.figure1.statements import Statement, statements
from equicert.experiments.outcomes import Outcome, Point, outcomes
from equicert.experiments.reports import Report, Request
from equicert.presets import preset
from equicert.runs import read_lines
from studies import Executioner, KilledError, lines_of, tampered, timeless

TINY = Figure1(
    preset("lipschitz-published", hidden=4, epochs=1, batch_size=20, evaluate_samples=5),
    seeds=2,
    radii=(0.0, *TABLE),
    lambdas=(0.0, 0.1, 1e-3),
    limit=15,
    attacked=6,
    pgd=PGD(3),
)
ONE = replace(TINY, seeds=1)
FORMS = (PRINTED, PER_MARGIN, INTERVAL)
ATTACKED = name_of_lambda(1e-3)


@pytest.fixture(scope="module")
def whole(blobs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted."""
    out = tmp_path_factory.mktemp("figure1") / "whole"
    TINY.run(blobs, out)
    return out


def reported(out: Path, data: DataSet, study: Figure1 = TINY) -> Report:
    return report(study, data, out, Request("", "", quick=False))


def numbers(out: Path, data: DataSet, study: Figure1 = TINY) -> dict[str, Any]:
    return json.loads(reported(out, data, study).files["results.json"])


def test_numbers_are_those_of_the_verdict_files(whole: Path, blobs: DataSet) -> None:
    found = numbers(whole, blobs)
    variants = ["lambda = 0", "lambda = 0.1", "lambda = 0.001", MON]
    assert [(m["seed"], m["variant"]) for m in found["models"]] == [
        (seed, name) for seed in (0, 1) for name in variants
    ]
    folders = dict(zip(variants, ("lambda-0", "lambda-0.1", "lambda-0.001", "MON"), strict=True))
    for model in found["models"]:
        place = whole / f"seed-{model['seed']}" / folders[model["variant"]]
        names = (PRINTED, SHARP) if model["variant"] == MON else FORMS
        if model["variant"] == ATTACKED:
            names = (*names, BY_PGD, BY_FGSM)
        assert tuple(model["curves"]) == names
        for name, points in model["curves"].items():
            word = "certified" if name.startswith("certify") else "unbroken"
            for point in points:
                lines = lines_of(place, f"{name}/eps-{point['eps']:g}")
                good = [v["status"] == word for v in lines]
                assert point["count"] == len(lines) == (15 if word == "certified" else 6)
                assert point["share"] == sum(good) / len(good)
                assert point["share_first"] == sum(good[:6]) / 6
                assert point["seconds"] == sum(v["seconds"] for v in lines) > 0
        clean = lines_of(place, f"{PRINTED}/eps-0")
        assert model["clean"] == sum(v["predicted"] == v["label"] for v in clean) / 15
        epochs = [v["seconds"] for v in read_lines(place / "train" / "metrics.jsonl")]
        assert model["epoch_seconds"] == statistics.median(epochs)
        assert model["reasons"] == {}
    assert found["certified_yet_broken"] == 0
    assert sum(model["attacks_in_vain"] for model in found["models"]) > 0


def test_each_form_of_a_certificate_is_what_it_is_called(whole: Path) -> None:
    called = {
        ("lambda-0.1", PRINTED): "lipschitz-radius-weighted",
        ("lambda-0.1", PER_MARGIN): "lipschitz-radius-derived-per-margin",
        ("lambda-0.1", INTERVAL): "interval",
        ("MON", PRINTED): "spectral-at-point",
        ("MON", SHARP): "spectral",
    }
    for (model, name), method in called.items():
        lines = lines_of(whole, f"seed-0/{model}/{name}/eps-0.01")
        assert {line["method"] for line in lines} == {method}


def test_the_defaults_are_the_published_recipe() -> None:
    study = Figure1()
    assert {name_of_lambda(w) for w in (0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)} | {MON} == {
        variant.name for variant in study.variants()
    }
    config = study.training(0.01)
    assert (config.weights, config.hidden, config.gamma) == ("contracting", 100, 0)
    assert (config.epochs, config.batch_size, config.lipschitz_bound) == (15, 100, "weighted")
    assert config.learning_rate == config.learning_rate_late == 1e-3
    assert config.lipschitz_weight == 0.01
    monotone = study.monotone()
    assert (monotone.weights, monotone.m, monotone.kappa) == ("monotone", 1, 0)
    for name in ("epochs", "batch_size", "hidden", "learning_rate", "learning_rate_late"):
        assert getattr(monotone, name) == getattr(config, name)
    assert study.attacked_lambda == 1e-5


@pytest.mark.parametrize(
    ("method", "call"),
    [("stage", 1), ("step", 2), ("epoch", 1), ("samples", 3), ("epoch", 4), ("samples", 45)],
)
def test_killed_study_resumes_to_the_same_numbers(
    method: str, call: int, whole: Path, blobs: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        ONE.run(blobs, out, progress=Executioner(method, call))
    ONE.run(blobs, out, resume=True)
    assert timeless(numbers(out, blobs, ONE)["models"]) == [
        model for model in timeless(numbers(whole, blobs)["models"]) if model["seed"] == 0
    ]
    heard = Executioner()
    ONE.run(blobs, out, resume=True, progress=heard)
    assert len(heard.heard) == len(list(ONE.stages()))  # nothing is done twice


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": 3}, "seeds is 2 there and 3 here"),
        ({"config": replace(TINY.config, epochs=2)}, "training_epochs is 1 there and 2 here"),
        ({"lambdas": (0.0, 0.1)}, "lambdas is"),
        ({"pgd": PGD(4)}, "pgd is"),
    ],
)
def test_folder_of_another_study_is_refused(
    change: dict[str, Any], named: str, whole: Path, blobs: DataSet
) -> None:
    with pytest.raises(OutputError, match=named):
        replace(TINY, **change).run(blobs, whole, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"radii": TABLE}, "radii must begin with 0"),
        ({"radii": (0.0, 0.01, 0.03, 0.1)}, r"\[0.05\] are missing"),
        ({"lambdas": (0.1,)}, "lambdas must be two or more"),
        ({"lambdas": (0.1, 0.1)}, "lambdas must be two or more"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


# Statements.


def made(
    variant: str, clean: float, shares: dict[str, float], seconds: dict[str, float]
) -> Outcome:
    """A model whose shares fall as 1, 1/2, 1/4, 1/8 over the radii of the tables."""
    curves = {
        name: (
            Point(0.0, clean, 15, clean, 1.0),
            *(
                Point(eps, share * 0.5**k, 15, share * 0.5**k, seconds.get(name, 1.0))
                for k, eps in enumerate(TABLE)
            ),
        )
        for name, share in shares.items()
    }
    return Outcome(variant, 0, "d", 15, 6, clean, clean, 2.0, curves, {}, 0, ())


AGREEING = {
    "lambda = 0.1": (0.80, {PRINTED: 0.7, PER_MARGIN: 0.75, INTERVAL: 0.80}),
    "lambda = 0.01": (0.90, {PRINTED: 0.5, PER_MARGIN: 0.60, INTERVAL: 0.70}),
    "lambda = 0": (0.95, {PRINTED: 0.0, PER_MARGIN: 0.1, INTERVAL: 0.20}),
    "lambda = 0.001": (0.94, {PRINTED: 0.1, PER_MARGIN: 0.2, INTERVAL: 0.60}),
    MON: (0.95, {PRINTED: 0.05, SHARP: 0.3}),
}
STATED = replace(TINY, lambdas=(0.0, 0.1, 0.01, 0.001))


def stated(
    changes: dict[str, tuple[float, dict[str, float]]] | None = None, cheap: float = 0.1
) -> list[Statement]:
    models = {**AGREEING, **(changes or {})}
    seconds = {PRINTED: cheap, PER_MARGIN: cheap, SHARP: cheap}
    return statements(STATED, [made(name, *model, seconds) for name, model in models.items()])


def disagreeing(said: list[Statement]) -> str:
    return "; ".join(statement.says for statement in said if not statement.agrees)


def test_statements_agree_where_all_numbers_do() -> None:
    said = stated()
    assert disagreeing(said) == ""
    assert len({statement.says for statement in said}) == len(said)
    [clean] = [s for s in said if "costs clean" in s.says]
    assert clean.numbers == "0.1: 80.00 %, 0.01: 90.00 %, 0.001: 94.00 %, 0: 95.00 %"


def test_each_statement_can_be_found_wrong() -> None:
    worse = {"lambda = 0.1": (0.8, {PRINTED: 0.4, PER_MARGIN: 0.75, INTERVAL: 0.8})}
    assert "certifies more at eps = 0.05, by (13) as printed" in disagreeing(stated(worse))
    assert "per margin" not in disagreeing(stated(worse))
    free = {"lambda = 0.1": (0.92, AGREEING["lambda = 0.1"][1])}
    assert disagreeing(stated(free)) == "larger lambda costs clean accuracy"
    strong = disagreeing(stated({MON: (0.95, {PRINTED: 0.5, SHARP: 0.3})}))
    assert "more than MON" in strong
    assert "MON by its l2 bound as printed" in strong
    assert "sharpened" not in strong
    near = {"lambda = 0.001": (0.94, {PRINTED: 0.1, PER_MARGIN: 0.2, INTERVAL: 0.25})}
    assert "far more than (13) derived" in disagreeing(stated(near))
    assert "far more than (13) as printed" not in disagreeing(stated(near))
    dear = disagreeing(stated(cheap=0.6))
    assert "far cheaper" in dear
    assert "more" not in dear


def test_an_order_may_be_missed_by_less_than_seeds_spread() -> None:
    almost = {"lambda = 0.1": (0.903, AGREEING["lambda = 0.1"][1])}
    assert disagreeing(stated(almost)) == ""
    nothing = {name: (0.9, dict.fromkeys(shares, 0.0)) for name, (_, shares) in AGREEING.items()}
    assert all(not s.agrees for s in stated(nothing) if "cheaper" not in s.says)


# What is written.


def test_page_has_every_number(whole: Path, blobs: DataSet) -> None:
    found, written = outcomes(TINY, whole), reported(whole, blobs)
    page = str(written.files["results.md"])
    said = statements(TINY, found)
    for statement in said:
        verdict = "agrees" if statement.agrees else "does not agree"
        assert f"| {statement.says} | {statement.numbers} | {verdict} |" in page
    for row in (*tables.certified_rows(TINY, found), *tables.times(TINY, found)):
        assert "| " + " | ".join(row) + " |" in page
    assert "9.8 s on one P100 GPU" in page
    assert "2.25 s for 10 000 on one P100 GPU" in page
    assert len(written.rows) == 3 * len(FORMS) + 2
    assert "Certified and yet broken: 0 " in page


def test_picture_is_a_function_of_the_numbers(whole: Path) -> None:
    found = outcomes(TINY, whole)
    drawn = figure1_picture(TINY, found, "blobs", "units")
    assert drawn.startswith(b"\x89PNG")
    assert figure1_picture(TINY, found, "blobs", "units") == drawn
    curves = dict(found[0].curves)
    curves[PRINTED] = tuple(replace(p, share=0.5 * p.share) for p in curves[PRINTED])
    other = [replace(found[0], curves=curves), *found[1:]]
    assert figure1_picture(TINY, other, "blobs", "units") != drawn


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with blobs.npz in it, the process inside, and a recipe for four hidden units."""
    monkeypatch.chdir(tmp_path)
    studies.save_blobs("blobs.npz")
    monkeypatch.setattr("equicert.cli.reproduce.preset", lambda _, **k: replace(TINY.config, **k))
    return tmp_path


WORDS = ["reproduce", "figure1", "--data", "blobs.npz", "--out", "f", "--quick", "--epochs", "1"]


def test_command_writes_everything_and_resumes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--limit", "5", "--threads", "1"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "stage 1 of 137, seed 0, lambda = 0 model: training" in printed.err
    assert "Figure 1 of [J22]" in printed.out
    assert "This is the quick version" in printed.out
    found = json.loads((here / "f" / "results.json").read_text())
    assert found["experiment"] == "figure1"
    assert found["quick"] is True
    assert found["training"]["lambda = 0.1"]["lipschitz_weight"] == 0.1
    assert found["training"][MON]["epochs"] == 1
    page = (here / "f" / "results.md").read_text("utf-8")
    assert found["command"] in page
    assert found["command"].startswith("equicert reproduce figure1 --data blobs.npz --out f ")
    picture = (here / "f" / "figure1.png").read_bytes()
    assert run(*words, "--quiet") == 2
    assert "resume it" in capsys.readouterr().err
    assert run(*words, "--quiet", "--resume") == 0
    assert capsys.readouterr() == ("", "")
    again = json.loads((here / "f" / "results.json").read_text())
    assert timeless(again) == timeless(found)
    assert (here / "f" / "figure1.png").read_bytes() == picture


def test_broken_certificate_is_an_error_after_writing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "read_lines", tampered)
    assert run(*WORDS, "--limit", "5") == 1
    printed = capsys.readouterr()
    assert "is certified up to eps" in printed.err
    found = json.loads((here / "f" / "results.json").read_text())
    assert found["certified_yet_broken"] > 0
    assert f"Certified and yet broken: {found['certified_yet_broken']} (it" in printed.out
    assert (here / "f" / "results.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figure3"], "unknown experiment 'figure3'; did you mean 'figure"),
        (["figure1", "--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["figure1", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["figure1", "--limit", "0"], "limit must be an integer >= 1, got 0"),
        (
            ["figure1", "--eps-max", "0.3"],
            "eps_max is a setting of figure2 and verification, not of figure1",
        ),
        (
            ["figure1", "--preset", "best"],
            "preset is a setting of figure2 and verification, not of figure1",
        ),
        (["figure1", "--lambda", "3"], "lambda"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", *words, "--data", "blobs.npz", "--out", "f") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "f").exists()
