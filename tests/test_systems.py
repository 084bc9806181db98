"""`reproduce systems` shows each system under the certificate that certifies the most, says why
another one does not apply, and resumes after a kill.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import studies
from command import run
from equicert.attacks import PGD
from equicert.data import DataSet
from equicert.errors import ConfigError, OutputError
from equicert.experiments import outcomes as measuring
from equicert.experiments.outcomes import Outcome, Point, outcomes
from equicert.experiments.reports import Report, Request
from equicert.experiments.study import lasting
from equicert.experiments.systems import definition, tables
from equicert.experiments.systems.definition import (
    ATTACKED,
    BY_PGD,
    TABLE,
    Systems,
    best,
    best_names,
)
from equicert.experiments.systems.pictures import systems_picture
from equicert.experiments.systems.report import report
from equicert.experiments.systems.table import (
    CALLED,
    INTERVAL,
    LIPSCHITZ,
    METHODS,
    SIGN_SPLIT,
    SPECTRAL,
    SYSTEMS,
    System,
)
from equicert.initialisation import initial_weight
from equicert.presets import preset
from equicert.schedules import TrainConfig
from studies import Executioner, KilledError, lines_of, tampered, timeless

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 20, "learning_rate": 0.05}
THREE = (
    System("inclusion", TrainConfig(hidden=4, **SMALL), "a test", 1),
    System(
        "MON, plain", TrainConfig(weights="monotone", hidden=20, kappa=0.0, **SMALL), "a test", 0
    ),
    System(
        "sign split",
        TrainConfig(weights="row-sum", hidden=4, **SMALL),
        "a test",
        2,
        (SIGN_SPLIT,),
    ),
)
TINY = Systems(THREE, seeds=1, radii=(0.0, *TABLE), limit=15, attacked=6, pgd=PGD(3))


@pytest.fixture(scope="module")
def whole(blobs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted."""
    out = tmp_path_factory.mktemp("systems") / "whole"
    TINY.run(blobs, out)
    return out


def reported(out: Path, data: DataSet) -> Report:
    return report(TINY, data, out, Request("", "", quick=False))


def numbers(out: Path, data: DataSet) -> dict[str, Any]:
    return json.loads(reported(out, data).files["results.json"])


def test_certificates_that_do_not_apply_say_why(whole: Path, blobs: DataSet) -> None:
    found = numbers(whole, blobs)
    by_name = {model["variant"]: model for model in found["models"]}
    reasons = by_name["MON, plain"]["reasons"]
    assert reasons == dict.fromkeys((INTERVAL, LIPSCHITZ, SIGN_SPLIT), "not contracting")
    assert found["over_seeds"]["MON, plain"]["reasons"] == reasons
    assert INTERVAL not in by_name["inclusion"]["reasons"]
    page = str(reported(whole, blobs).files["results.md"])
    assert "does not apply: not contracting |" in page
    assert list(by_name["sign split"]["curves"]) == [SIGN_SPLIT, BY_PGD]


def test_the_best_certificate_is_that_which_certifies_the_most(whole: Path, blobs: DataSet) -> None:
    found = numbers(whole, blobs)
    for system in THREE:
        place = whole / "seed-0" / system.name.replace(", ", "-").replace(" ", "-")
        for eps in TINY.radii:
            counts = {
                name: sum(
                    line["status"] == "certified" for line in lines_of(place, f"{name}/eps-{eps:g}")
                )
                for name in system.methods
            }
            chosen = found["best"][system.name][f"{eps:g}"]
            assert counts[chosen] == max(counts.values())
    assert found["best"]["MON, plain"]["0.01"] == SPECTRAL


def outcome(seed: int, shares: dict[str, tuple[float, ...]]) -> Outcome:
    """A model with these certified shares at the radii of TINY."""
    curves = {
        name: tuple(Point(e, s, 15, s, 1.0) for e, s in zip(TINY.radii, values, strict=True))
        for name, values in shares.items()
    }
    curves[BY_PGD] = tuple(Point(eps, 0.9, 6, 0.9, 1.0) for eps in ATTACKED)
    return Outcome("one", seed, "d", 15, 6, 0.9, 0.9, 2.0, curves, {}, 0, ())


def test_the_choice_is_by_the_mean_over_seeds_at_each_radius() -> None:
    one = System("one", TrainConfig(), "a test", 0, (INTERVAL, SPECTRAL))
    found = [
        outcome(0, {INTERVAL: (0.9, 0.8, 0.6, 0.3, 0.1), SPECTRAL: (0.9, 0.9, 0.5, 0.2, 0.1)}),
        outcome(1, {INTERVAL: (0.9, 0.8, 0.6, 0.3, 0.1), SPECTRAL: (0.9, 0.9, 0.65, 0.5, 0.1)}),
    ]
    chosen = [best(found, one, eps)[0] for eps in TINY.radii]
    assert chosen == [INTERVAL, SPECTRAL, INTERVAL, SPECTRAL, INTERVAL]
    name, share = best(found, one, 0.05)
    assert (name, share.mean, share.least, share.greatest) == (SPECTRAL, 0.35, 0.2, 0.5)
    assert best_names(found, one, TINY.radii) == [INTERVAL, SPECTRAL]
    assert best_names(found, one, (0.0, 0.03)) == [INTERVAL]
    study = replace(TINY, systems=(one,))
    assert tables.certificate(study, found, one) == f"{CALLED[INTERVAL]} / {CALLED[SPECTRAL]}"


def test_a_certificate_that_does_not_apply_is_not_the_best() -> None:
    one = System("one", TrainConfig(), "a test", 0, (INTERVAL, SPECTRAL))
    study = replace(TINY, systems=(one,))
    nothing = (0.0,) * len(TINY.radii)
    some = outcome(0, {INTERVAL: nothing, SPECTRAL: (0.9, 0.5, 0.0, 0.0, 0.0)})
    inapplicable = replace(some, reasons={INTERVAL: "not contracting"})
    assert best([some], one, 0.1)[0] == INTERVAL  # of equals the first
    assert best([inapplicable], one, 0.1)[0] == SPECTRAL
    assert best_names([some], one, TINY.radii) == [SPECTRAL]  # elsewhere nothing is certified
    assert tables.certificate(study, [some], one) == CALLED[SPECTRAL]
    silent = outcome(0, {INTERVAL: nothing, SPECTRAL: nothing})
    silent = replace(silent, reasons=dict.fromkeys((INTERVAL, SPECTRAL), "not contracting"))
    assert best([silent], one, 0.1)[1].mean == 0
    assert tables.certificate(study, [silent], one) == "none certifies anything"


def test_every_system_of_the_table_can_be_trained() -> None:
    study = Systems()
    assert len(study.systems) == len(SYSTEMS) == len({v.folder for v in study.variants()})
    assert set(METHODS) == set(CALLED)
    for system in SYSTEMS:
        initial_weight(system.config)
        assert system.tuning >= 0
        assert system.source
        assert set(system.methods) <= set(METHODS)


def test_milestones_keep_their_places() -> None:
    short = lasting(preset("best"), 6)
    assert (short.epochs, short.warmup, short.ramp_start, short.ramp_end) == (6, 0.2, 0, 1)
    assert lasting(preset("published"), 4) == preset("published", epochs=4)
    for system in SYSTEMS:
        assert lasting(system.config, system.config.epochs) == system.config
        for time in (0.0, 0.3, 0.5, 0.99):
            at, config = lasting(system.config, 2), system.config
            now, then = at.at(2 * time), config.at(config.epochs * time)
            assert now.eps == pytest.approx(then.eps)
            assert now.learning_rate == pytest.approx(then.learning_rate)


@pytest.mark.parametrize(("method", "call"), [("step", 1), ("epoch", 2), ("samples", 30)])
def test_killed_study_resumes_to_the_same_numbers(
    method: str, call: int, whole: Path, blobs: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        TINY.run(blobs, out, progress=Executioner(method, call))
    TINY.run(blobs, out, resume=True)
    assert timeless(numbers(out, blobs)) == timeless(numbers(whole, blobs))


def test_other_settings_of_a_system_are_another_study(whole: Path, blobs: DataSet) -> None:
    other = replace(THREE[0], config=replace(THREE[0].config, kappa=0.5))
    with pytest.raises(OutputError, match=r"inclusion: kappa is 0.75 there and 0.5 here"):
        replace(TINY, systems=(other, *THREE[1:])).run(blobs, whole, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"radii": (0.0, 0.1)}, "are missing"),
        ({"systems": ()}, "systems must be one or more of different names"),
        ({"systems": (THREE[0], THREE[0])}, "systems must be one or more of different names"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


def test_page_and_picture(whole: Path, blobs: DataSet) -> None:
    found, written = outcomes(TINY, whole), reported(whole, blobs)
    page = str(written.files["results.md"])
    assert [row[0] for row in written.rows] == [system.name for system in THREE]
    for row in written.rows:
        assert "| " + " | ".join(row) + " |" in page
    assert "| sign split | a test | 2 | 2 |" in page  # settings, tuning runs, epochs
    drawn = systems_picture(TINY, found, "blobs", "units")
    assert drawn.startswith(b"\x89PNG")
    assert systems_picture(TINY, found, "blobs", "units") == drawn
    attacked = {BY_PGD: found[0].curves[BY_PGD]}
    none = {n: tuple(replace(p, share=0.0) for p in c) for n, c in found[0].curves.items()}
    other = [replace(found[0], curves={**none, **attacked}), *found[1:]]
    assert systems_picture(TINY, other, "blobs", "units") != drawn


WORDS = ["reproduce", "systems", "--data", "blobs.npz", "--out", "s", "--quick", "--limit", "5"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with blobs.npz in it, the process inside, and three small systems."""
    monkeypatch.chdir(tmp_path)
    studies.save_blobs("blobs.npz")
    monkeypatch.setattr(definition, "Systems", partial(Systems, THREE))
    return tmp_path


def test_command_writes_everything_and_resumes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--threads", "1"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "seed 0, inclusion model: training" in printed.err
    assert "All systems, each under its best certificate" in printed.out
    found = json.loads((here / "s" / "results.json").read_text())
    assert found["training"]["inclusion"]["epochs"] == 1
    assert found["training"]["inclusion"]["threads"] == 1
    assert found["systems"]["sign split"] == {"source": "a test", "tuning_runs": 2}
    assert (here / "s" / "systems.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words, "--quiet", "--resume") == 0
    assert capsys.readouterr() == ("", "")
    again = json.loads((here / "s" / "results.json").read_text())
    assert timeless(again) == timeless(found)


def test_broken_certificate_is_an_error_after_writing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "read_lines", tampered)
    assert run(*WORDS) == 1
    assert "is certified up to eps" in capsys.readouterr().err
    assert json.loads((here / "s" / "results.json").read_text())["certified_yet_broken"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["system"], "unknown experiment 'system'; did you mean 'systems'?"),
        (
            ["systems", "--eps-max", "0.3"],
            "eps_max is a setting of figure2 and verification, not of systems",
        ),
        (["systems", "--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["systems", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", *words, "--data", "blobs.npz", "--out", "s") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "s").exists()
