"""`reproduce convolutions` counts what the verdict files say, for trained and for given models,
resumes after a kill, and says of each model how to make it again.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import studies
from command import run
from equicert.attacks import PGD
from equicert.cli import commands as command_line
from equicert.data import DataSet, load_data
from equicert.errors import ConfigError, OutputError
from equicert.experiments import outcomes as measuring
from equicert.experiments.convolutions import definition
from equicert.experiments.convolutions.definition import (
    ATTACK,
    CERTIFY,
    ENTRIES,
    MAIN,
    Convolutions,
    Entry,
    quick,
    with_given,
)
from equicert.experiments.convolutions.given import Given, given_model, training_seconds
from equicert.experiments.convolutions.measurements import describe
from equicert.experiments.convolutions.pictures import convolutions_picture
from equicert.experiments.convolutions.redo import commands, train_command
from equicert.experiments.convolutions.report import record, report
from equicert.experiments.outcomes import outcomes
from equicert.experiments.provenance import as_json
from equicert.experiments.published import CERTIFIED, FIGURE2_SAMPLES
from equicert.experiments.reports import Request
from equicert.initialisation import initial_network
from equicert.models import load_model
from equicert.policies import Raise
from equicert.presets import PRESETS, preset
from equicert.schedules import TrainConfig
from studies import Executioner, KilledError, lines_of, tampered, timeless

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 20, "learning_rate": 0.05, "eps": 0.05}
TINY = Convolutions(
    (
        Entry("dense", "dense, n = 4", TrainConfig(hidden=4, **SMALL)),
        Entry("layered-0.3", "a layer and a block", TrainConfig(hidden=3, front="5", **SMALL)),
    ),
    radii=(0.0, 0.03, *MAIN),
    limit=15,
    attacked=6,
    pgd=PGD(3),
)
ASKED = Request("again", "", quick=False)


@pytest.fixture(scope="module")
def whole(blobs: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted."""
    out = tmp_path_factory.mktemp("convolutions") / "whole"
    TINY.run(blobs, out)
    return out


def model_of(out: Path, name: str) -> Path:
    return out / "seed-0" / name / "train" / "model.safetensors"


def numbers(study: Convolutions, out: Path, data: DataSet) -> dict[str, Any]:
    found = record(study, data, outcomes(study, out), describe(study, out), (), ASKED)
    return json.loads(as_json(found))


def test_numbers_are_those_of_the_verdict_files(whole: Path, blobs: DataSet) -> None:
    found = numbers(TINY, whole, blobs)
    assert [model["variant"] for model in found["models"]] == ["dense", "layered-0.3"]
    for model, about in zip(found["models"], found["networks"], strict=True):
        place = whole / "seed-0" / model["variant"]
        network = load_model(place / "train" / "model.safetensors")
        assert model["digest"] == network.digest
        assert about["units"] == network.states
        assert about["training"]["eps"] == 0.05
        points = lines_of(place, f"{CERTIFY}/eps-0")
        assert model["clean"] == sum(v["label"] == v["predicted"] for v in points) / 15
        for name, status, count in ((CERTIFY, "certified", 15), (ATTACK, "unbroken", 6)):
            for point in model["curves"][name]:
                lines = lines_of(place, f"{name}/eps-{point['eps']:g}")
                assert point["count"] == len(lines) == count
                assert point["share"] == sum(v["status"] == status for v in lines) / count
    assert [about["units"] for about in found["networks"]] == [4, 8]
    assert found["certified_yet_broken"] == 0
    assert found["published"] == []  # it is of other data
    assert sum(model["attacks_in_vain"] for model in found["models"]) > 0


def test_given_models_are_taken_as_they_are(whole: Path, blobs: DataSet, tmp_path: Path) -> None:
    files = {name: model_of(whole, name) for name in ("dense", "layered-0.3")}
    given = {name: given_model(path) for name, path in files.items()}
    assert given["dense"].trained == replace(TINY.entries[0].config, seed=0)
    assert given["dense"].seconds == training_seconds(files["dense"].parent) > 0
    more = {**given, "another": given["dense"]}
    study = replace(TINY, entries=with_given(TINY.entries, more), seeds=2)
    study.run(blobs, tmp_path / "run")
    assert not list((tmp_path / "run").glob("seed-*/*/train"))
    assert not (tmp_path / "run" / "seed-1").exists()
    found, before = outcomes(study, tmp_path / "run"), outcomes(TINY, whole)
    assert [one.variant for one in found] == ["dense", "layered-0.3", "another"]
    for mine, theirs in zip(found, before, strict=False):
        assert mine.digest == theirs.digest
        for name in (CERTIFY, ATTACK):
            pairs = zip(mine.curves[name], theirs.curves[name], strict=True)
            assert all(a.share == b.share for a, b in pairs)
    abouts = describe(study, tmp_path / "run")
    assert [a.seconds for a in abouts] == [given[n].seconds for n in (*files, "dense")]
    written = numbers(study, tmp_path / "run", blobs)
    assert written["training"] == {}
    assert written["settings"]["another: model"] == given["dense"].network.digest
    other = with_given(TINY.entries, {**more, "dense": given["layered-0.3"]})
    with pytest.raises(OutputError, match="dense: model is"):
        replace(study, entries=other).run(blobs, tmp_path / "run", resume=True)


def said(path: Path) -> tuple[TrainConfig | None, float | None]:
    given = given_model(path)
    return given.trained, given.seconds


def test_a_record_of_other_weights_says_nothing(whole: Path, tmp_path: Path) -> None:
    folder = model_of(whole, "dense").parent
    for name in ("config.yaml", "metrics.jsonl", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "model.safetensors"
    known = given_model(path)
    assert known.trained is not None
    unknown = (None, None)
    text = (tmp_path / "config.yaml").read_text()
    for changed in (text.replace(known.network.digest, "0" * 64), "no: record", "config: {a: 1}"):
        (tmp_path / "config.yaml").write_text(changed)
        assert said(path) == unknown
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "metrics.jsonl").unlink()
    assert said(path) == unknown
    entry = Entry("mine", "mine", TrainConfig(), Given(known.network))
    assert not any("train" in command for command in commands(TINY, entry, "digits"))


def test_killed_study_resumes_to_the_same_numbers(
    whole: Path, blobs: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        TINY.run(blobs, tmp_path / "run", progress=Executioner("samples", 3))
    TINY.run(blobs, tmp_path / "run", resume=True)
    again, before = (numbers(TINY, out, blobs) for out in (tmp_path / "run", whole))
    assert timeless(again) == timeless(before)


def test_what_breaks_a_certificate_is_counted(
    whole: Path, blobs: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "read_lines", tampered)
    assert numbers(TINY, whole, blobs)["certified_yet_broken"] > 0
    assert report(TINY, blobs, whole, ASKED).contradictions


def test_page_and_picture(whole: Path, blobs: DataSet) -> None:
    written, found = report(TINY, blobs, whole, ASKED), outcomes(TINY, whole)
    page = str(written.files["results.md"])
    assert not written.contradictions
    for row in written.rows:
        assert "| " + " | ".join(row) + " |" in page
    for text in ("seed 0", "| layered-0.3 | a layer and a block | 8 |", "    again", "[J22]"):
        assert (text in page) == (text != "[J22]")
    on_mnist = report(TINY, replace(blobs, name="mnist"), whole, ASKED)
    assert "| IBP [G18] | 97.1 % | 91.8 % |" in str(on_mnist.files["results.md"])
    drawn, marked = (r.files["convolutions.png"] for r in (written, on_mnist))
    assert isinstance(marked, bytes)
    assert marked.startswith(b"\x89PNG")
    assert len(marked) < 200_000
    assert drawn != marked
    words = "blobs, 15 test images, seed 0, boxes clipped"
    assert drawn == convolutions_picture(TINY, found, (), words, "in units of the data")


def test_published_values_are_shares_of_all_images_at_the_radii_of_the_tables() -> None:
    assert {known.eps for known in CERTIFIED} == set(MAIN)
    for known in CERTIFIED:
        assert known.source
        assert known.certified * FIGURE2_SAMPLES == pytest.approx(
            round(known.certified * FIGURE2_SAMPLES)
        )


@pytest.mark.parametrize(
    "config",
    [
        *(preset(name, seed=3) for name in PRESETS),
        *(quick(entry, 7).config for entry in ENTRIES),
        preset("convolutional", front=None, normalisation="none", threads=2, device="cuda"),
        TrainConfig(weights="feed-forward", layers="7,5", late_epoch=1.5, activation="tanh"),
    ],
)
def test_the_command_trains_with_the_same_settings(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(command_line, "run_train", lambda settings, **_: heard.update(settings))
    program, *words = train_command(config, "digits", "runs/a").split(" ")
    assert program == "equicert"
    assert run(*words) == 0
    settings = config.to_mapping()
    assert {name: heard[name] for name in settings} == settings
    assert (heard["data"], heard["out"]) == ("digits", "runs/a")


def test_all_entries_fit_their_images() -> None:
    digits, policy = load_data("digits"), Raise()
    networks = [initial_network(digits, quick(entry, 1).config, policy) for entry in ENTRIES]
    assert len(networks) == len(Convolutions().variants()) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
        ({"radii": (0.0, 0.1)}, "are missing"),
        ({"entries": ()}, "models must be one or more of different names"),
        ({"entries": TINY.entries[:1] * 2}, "models must be one or more of different names"),
        ({"entries": (Entry("/", "/", TrainConfig()),)}, "models must be one or more of"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)


WORDS = ["reproduce", "convolutions", "--data", "digits", "--out", "c", "--quick"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with blobs.npz in it, the process inside, and one small convolutional network."""
    monkeypatch.chdir(tmp_path)
    studies.save_blobs("blobs.npz")
    config = TrainConfig(front="2x3/2", hidden=3, decay="cosine")
    monkeypatch.setattr(definition, "ENTRIES", (Entry("small", "small", config),))
    return tmp_path


def test_command_trains_and_takes_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, "--limit", "3", "--epochs", "1", "--threads", "1"]
    words += ["--model", "mine=zoo:digits"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "seed 0, small model: training" in printed.err
    assert "seed 0, mine model: as it is" in printed.err
    assert "Dense and convolutional networks" in printed.out
    found = json.loads((here / "c" / "results.json").read_text())
    assert (
        found["training"]["small"] | {"epochs": 1, "front": "8x3/2"} == found["training"]["small"]
    )
    assert found["networks"][1]["training"] is None
    assert found["command"].endswith("--epochs 1 --limit 3 --threads 1 --quick")
    assert (here / "c" / "convolutions.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words, "--quiet", "--resume") == 0
    assert capsys.readouterr() == ("", "")
    assert timeless(json.loads((here / "c" / "results.json").read_text())) == timeless(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "zoo:digits"], "model of convolutions must be NAME=FILE"),
        (["--model", "a=zoo:digits,a=zoo:digits"], "of different names"),
        (["--model", "a=zoo:digits,"], "model of convolutions must be NAME=FILE"),
        (["--model", "a=none.npz"], "none.npz does not exist"),
        (["--model", "small=zoo:digits", "--epochs", "2"], "epochs is of training, and --model"),
        (["--eps-max", "0.3"], "eps_max is a setting of figure2 and verification, not of conv"),
        (["--preset", "best"], "preset is a setting of figure2 and verification, not of conv"),
        (["--seeds", "0"], "seeds must be an integer >= 1, got 0"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", "convolutions", "--data", "blobs.npz", "--out", "c", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (here / "c").exists()
