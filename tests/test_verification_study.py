"""`reproduce verification` counts what the verdict files say, for trained and for given models,
resumes after a kill, and puts no method above a later one, nor a proof above an attack.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import studies
from command import run
from equicert.attacks import PGD
from equicert.data import DataSet
from equicert.errors import ConfigError, OutputError
from equicert.experiments.reports import Report, Request
from equicert.experiments.verification import measurements
from equicert.experiments.verification.definition import (
    ATTACK,
    AUTO,
    METHODS,
    Verification,
    grid,
)
from equicert.experiments.verification.measurements import (
    Cost,
    Measured,
    Row,
    certified_by,
    measure,
    sample_seconds,
)
from equicert.experiments.verification.pictures import cost_picture, shares_picture
from equicert.experiments.verification.report import report
from equicert.experiments.verification.tables import BY_RADIUS, by_radius
from equicert.models import load_model
from equicert.schedules import TrainConfig
from studies import Executioner, KilledError, lines_of, tampered, timeless

TINY = Verification(
    TrainConfig(hidden=4, epochs=2, learning_rate=0.05, batch_size=20, evaluate_samples=5),
    seeds=2,
    radii=(0.0, 0.1, 0.3),
    limit=15,
    timeout=20.0,
    pgd=PGD(3),
)
ONE = replace(TINY, seeds=1)


@pytest.fixture(scope="module")
def whole(blobs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted."""
    out = tmp_path_factory.mktemp("verification") / "whole"
    TINY.run(blobs, out)
    return out


def reported(study: Verification, out: Path, data: DataSet) -> Report:
    return report(study, data, out, Request("", "", quick=False))


def numbers(study: Verification, out: Path, data: DataSet) -> dict[str, Any]:
    return json.loads(str(reported(study, out, data).files["results.json"]))


def test_numbers_are_those_of_the_verdict_files(whole: Path, blobs: DataSet) -> None:
    found = numbers(TINY, whole, blobs)
    assert found["data"] | {"samples": 15, "digest": blobs.digest} == found["data"]
    assert [m["seed"] for m in found["models"]] == [0, 1]
    for model in found["models"]:
        place = whole / f"seed-{model['seed']}" / "trained"
        assert load_model(place / "train" / "model.safetensors").digest == model["digest"]
        for row in model["rows"]:
            lines = lines_of(place, f"auto/eps-{row['eps']:g}")
            assert len(lines) == 15
            by = [v["method"] for v in lines if v["status"] == "certified"]
            sums = {n: sum(by.count(m) for m in METHODS[: k + 1]) for k, n in enumerate(METHODS)}
            assert row["certified"] == {name: count / 15 for name, count in sums.items()}
            for status in ("falsified", "misclassified", "unknown"):
                assert row[status] == sum(v["status"] == status for v in lines) / 15
            if row["eps"] == 0:
                assert row["unbroken"] == model["clean"]
                continue
            attacked = lines_of(place, f"attack/eps-{row['eps']:g}")
            assert row["unbroken"] == sum(v["status"] == "unbroken" for v in attacked) / 15
        for cost in model["costs"]:
            lines = lines_of(place, f"{cost['method']}/eps-0.1")
            assert cost["certified"] == sum(v["status"] == "certified" for v in lines) / 15
            assert cost["seconds"] == pytest.approx(sum(v["seconds"] for v in lines))
            assert cost["mean"] == pytest.approx(cost["seconds"] / 15)
            assert 0 < cost["median"] <= cost["largest"] <= cost["seconds"]
    assert found["certified_yet_broken"] == 0
    assert sum(model["attacks_in_vain"] for model in found["models"]) > 0


def test_later_methods_certify_more_and_attacks_leave_more(whole: Path) -> None:
    decided = set()
    for model in measure(TINY, whole):
        for row in model.rows:
            shares = [row.certified[name] for name in METHODS]
            assert shares == sorted(shares)
            whole_ = shares[-1] + row.falsified + row.misclassified + row.unknown
            assert whole_ == pytest.approx(1)
            assert shares[-1] <= row.unbroken + 1e-12
            assert shares[-1] <= row.open <= 1
            assert row.decided == pytest.approx(1 - row.unknown)
            assert sum(row.reasons.values()) == round(15 * row.unknown)
            decided |= {name for name in METHODS if row.certified[name]}
        alone = [model.cost(name).certified for name in METHODS]
        assert alone == sorted(alone)
        assert all(cost.missed == cost.more == 0 for cost in model.costs)
    assert len(decided) > 1  # so that the order means something


def test_given_model_is_verified_as_it_is(whole: Path, blobs: DataSet, tmp_path: Path) -> None:
    given = load_model(whole / "seed-1" / "trained" / "train" / "model.safetensors")
    study = replace(ONE, given=given)
    study.run(blobs, tmp_path / "run")
    assert not (tmp_path / "run" / "seed-0" / "given" / "train").exists()
    [mine], [_, trained] = measure(study, tmp_path / "run"), measure(TINY, whole)
    assert mine.digest == trained.digest == given.digest
    assert timeless_rows(mine) == timeless_rows(trained)
    other = load_model(whole / "seed-0" / "trained" / "train" / "model.safetensors")
    with pytest.raises(OutputError, match="model is"):
        replace(ONE, given=other).run(blobs, tmp_path / "run", resume=True)


def timeless_rows(model: Measured) -> list[Row]:
    return [replace(row, seconds=0.0, median=0.0) for row in model.rows]


@pytest.mark.parametrize(("method", "call"), [("stage", 4), ("epoch", 2), ("samples", 3)])
def test_killed_study_resumes_to_the_same_numbers(
    method: str, call: int, whole: Path, blobs: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        ONE.run(blobs, out, progress=Executioner(method, call))
    ONE.run(blobs, out, resume=True)
    for mine, theirs in zip(measure(ONE, out), measure(TINY, whole), strict=False):
        assert timeless_rows(mine) == timeless_rows(theirs)
    for stage in ONE.stages():
        if stage.task is not None and stage.task.name in ("interval", ATTACK):
            assert timeless(lines_of(out, stage.folder)) == timeless(lines_of(whole, stage.folder))


def test_shares_follow_from_the_stage_that_decided() -> None:
    stages = ["interval", "lipschitz", "complete", "falsifier", "tightening", "dual", "complete"]
    status = ["certified"] * 3 + ["falsified"] + ["certified"] * 2 + ["unknown"]
    lines = [
        {"index": k, "status": s, "method": m}
        for k, (s, m) in enumerate(zip(status, stages, strict=True))
    ]
    assert [certified_by(name, lines) for name in METHODS] == [
        {1},
        {0, 1},
        {0, 1, 5},
        {0, 1, 4, 5},
        {0, 1, 2, 4, 5},
    ]


def test_time_of_a_sample_is_its_own_and_its_part_of_the_rest() -> None:
    lines: list[dict[str, Any]] = [{"seconds": 2.0}] * 3 + [{"seconds": 2.0, "search_seconds": 6.0}]
    assert sample_seconds(lines) == [0.5, 0.5, 0.5, 6.5]
    assert sum(sample_seconds(lines)) == 8.0


@pytest.mark.parametrize(
    ("name", "status", "named"),
    [(ATTACK, "broken", "pgd"), (AUTO, "falsified", "falsifier"), ("complete", "falsified", "x")],
)
def test_what_breaks_a_certificate_is_counted(
    name: str,
    status: str,
    named: str,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(path: Path) -> list[dict[str, Any]]:
        lines = lines_of(path.parent, ".")
        if (path.parts[-3], path.parts[-2]) != (name, "eps-0.1"):
            return lines
        return [v | {"status": status, "method": named} for v in lines]

    before = measure(TINY, whole)
    assert not any(model.contradictions for model in before)
    monkeypatch.setattr(measurements, "read_lines", changed)
    found = measure(TINY, whole)[0].contradictions
    assert found
    assert {(c.method, c.eps) for c in found} == {(named, 0.1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"limit": 0}, "limit must be"),
        ({"timeout": 0.0}, "timeout must be a number of seconds > 0, got 0"),
        ({"timeout": math.nan}, "timeout must be a number of seconds > 0, got nan"),
        ({"radii": (0.1, 0.2)}, "radii must begin with 0"),
        ({"eps": 0.07}, "eps must be one of the radii"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


def test_a_given_model_has_no_seeds(whole: Path) -> None:
    given = load_model(whole / "seed-0" / "trained" / "train" / "model.safetensors")
    with pytest.raises(ConfigError, match="a given model has no seeds; got seeds = 2"):
        replace(TINY, given=given)


def test_grid_holds_the_radius_of_the_methods_alone() -> None:
    assert grid() == (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2)
    assert grid(0.2, 2) == (0.0, 0.05, 0.1, 0.15, 0.2)
    assert grid(0.1)[-1] == 0.1
    for eps in (0.09, 1.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="eps_max must be in"):
            grid(eps)


def made(seed: int, at: float) -> Measured:
    """A model of which `complete` certifies this at 0.1."""
    rows = tuple(
        Row(eps, dict(zip(METHODS, by, strict=True)), 0.1, 0.0, 0.05, {"timeout": 1}, 0.99, 2, 0.1)
        for eps, by in [(0.0, (0.9,) * 5), (0.1, (0.1, 0.5, 0.6, 0.7, at)), (0.3, (0.0,) * 5)]
    )
    costs = tuple(
        Cost(name, rows[1].certified.get(name, at), 1.0, 0, 1, "", 3.0, 0.2 * k, 0.1, 1.5)
        for k, name in enumerate((*METHODS, AUTO), 1)
    )
    return Measured(seed, "d", 15, 0.9, rows, costs, 7, ())


def test_table_and_pictures_are_functions_of_the_numbers() -> None:
    models = [made(0, 0.8), made(1, 0.9)]
    row = dict(zip(BY_RADIUS, by_radius(models)[1], strict=True))
    assert row["complete"] == "85.00 % ± 7.07 [80.00, 90.00]"
    assert row["dual"] == "60.00 % ± 0.00 [60.00, 60.00]"
    assert row["not falsified"].startswith("90.00 %")
    assert row["decided"].startswith("95.00 %")
    drawings = [
        lambda models: shares_picture(models, ("blobs", "limits"), "units"),
        lambda models: cost_picture(models, 0.1, ("blobs", "limits")),
    ]
    for draw in drawings:
        drawn = draw(models)
        assert drawn.startswith(b"\x89PNG")
        assert draw(models) == drawn
        assert len(drawn) < 150_000
        assert draw([made(0, 0.8), made(1, 0.86)]) != drawn
        assert draw(models[:1]).startswith(b"\x89PNG")


WORDS = ["reproduce", "verification", "--data", "blobs.npz", "--out", "v", "--quick"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with blobs.npz in it, the process inside, and a recipe for four hidden units."""
    monkeypatch.chdir(tmp_path)
    studies.save_blobs("blobs.npz")
    monkeypatch.setattr("equicert.cli.reproduce.preset", lambda _, **k: replace(TINY.config, **k))
    return tmp_path


def test_command_writes_everything_and_resumes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--limit", "5", "--epochs", "1", "--eps-max", "0.1", "--timeout", "20"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "stage 1 of 11, seed 0, trained model: training" in printed.err
    assert "Certified by each method, by radius" in printed.out
    found = json.loads((here / "v" / "results.json").read_text())
    assert found["quick"] is True
    assert found["settings"]["radii"] == [0.0, 0.05, 0.1]
    assert found["settings"]["timeout"] == 20
    assert found["settings"]["training_epochs"] == 1
    assert found["command"].endswith("--epochs 1 --eps-max 0.1 --timeout 20.0 --limit 5 --quick")
    page = (here / "v" / "results.md").read_text("utf-8")
    for text in ("This is the quick version", "| tightening |", "missed", found["command"]):
        assert text in page
    for name in ("verification.png", "cost.png"):
        assert (here / "v" / name).read_bytes().startswith(b"\x89PNG")
    assert run(*words, "--quiet") == 2
    assert "resume it" in capsys.readouterr().err
    assert run(*words, "--quiet", "--resume") == 0
    assert capsys.readouterr() == ("", "")
    assert timeless(json.loads((here / "v" / "results.json").read_text())) == timeless(found)


def test_command_takes_a_model(here: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = whole / "seed-0" / "trained" / "train" / "model.safetensors"
    words = [*WORDS, "--limit", "5", "--eps-max", "0.1", "--model", str(model)]
    assert run(*words) == 0
    assert "given model: as it is" in capsys.readouterr().err
    found = json.loads((here / "v" / "results.json").read_text())
    assert found["settings"]["model"] == found["models"][0]["digest"] == load_model(model).digest
    assert "training_epochs" not in found["settings"]
    for extra in (["--epochs", "1"], ["--seeds", "2"], ["--preset", "best"]):
        assert run(*words, *extra, "--resume") == 2
        assert f"{extra[0][2:]} is of training, and --model" in capsys.readouterr().err


def test_broken_certificate_is_an_error_after_writing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measurements, "read_lines", tampered)
    assert run(*WORDS, "--limit", "5", "--eps-max", "0.1") == 1
    assert "is certified up to eps" in capsys.readouterr().err
    assert json.loads((here / "v" / "results.json").read_text())["certified_yet_broken"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verificaton"], "unknown experiment 'verificaton'; did you mean 'verification'?"),
        (["verification", "--timeout", "0"], "timeout must be a number of seconds > 0, got 0"),
        (["verification", "--eps-max", "0.05"], "eps_max must be in [0.1, 1], got 0.05"),
        (["verification", "--limit", "0"], "limit must be an integer >= 1, got 0"),
        (["verification", "--model", "none.npz"], "none.npz"),
        (
            ["figure2", "--model", "m.npz"],
            "model is a setting of verification and convolutions, not",
        ),
        (["systems", "--timeout", "3"], "timeout is a setting of verification, not of systems"),
        (["figure1", "--preset", "best"], "preset is a setting of figure2 and verification, not"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", *words, "--data", "blobs.npz", "--out", "v") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "v").exists()
