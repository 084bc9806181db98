"""Named recipes, in Python and on the command line."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

from command import run
from equicert.errors import ConfigError
from equicert.presets import PRESETS, preset
from equicert.schedules import TrainConfig


def test_published_is_the_default_and_best_is_another() -> None:
    assert preset("published") == TrainConfig()
    assert preset("best") != TrainConfig()
    assert preset("best", kappa=0.5, seed=4).kappa == 0.5


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [("bset", {}, "best"), ("best", {"kapa": 1.0}, "kappa"), ("best", {"kappa": 2.0}, "kappa")],
)
def test_what_does_not_exist_is_refused(name: str, changes: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        preset(name, **changes)


def test_cosine_falls_from_the_rate_to_nothing() -> None:
    config = TrainConfig(epochs=10, decay="cosine", learning_rate=0.5)
    rates = [config.at(time).learning_rate for time in np.linspace(0, 10, 101)]
    assert rates[0] == 0.5
    assert rates[50] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("decay", ["step", "cosine"])
def test_rates_rise_from_nothing_over_the_warm_up(decay: str) -> None:
    config = TrainConfig(epochs=10, decay=decay, warmup=2.0)  # type: ignore[arg-type]
    cold = TrainConfig(epochs=10, decay=decay)  # type: ignore[arg-type]
    for time in (0.0, 0.5, 1.0, 2.0, 5.0, 9.0):
        risen = min(time / 2, 1)
        expected = risen * cold.at(time).learning_rate
        assert config.at(time).learning_rate == pytest.approx(expected)


@pytest.mark.parametrize("overshoot", [0.5, 1.0, 1.25])
def test_training_boxes_overshoot_what_is_certified(overshoot: float) -> None:
    config = TrainConfig(eps=0.2, overshoot=overshoot)
    assert config.at(20).eps == pytest.approx(0.2 * overshoot)
    assert config.at(15).eps == pytest.approx(0.1 * overshoot)
    assert config.eps == 0.2


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 64)), np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y, domain=[0.0, 1.0])
    return str(tmp_path / "d.npz")


SMALL = ("--hidden", "3", "--epochs", "1", "--threads", "1", "--quiet")


@pytest.mark.parametrize("words", [("--preset", "best"), ("--preset=best",)])
def test_a_preset_gives_defaults_that_options_override(
    data: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    out = str(tmp_path / "run")
    given = ("--kappa", "0.75", *words, *SMALL)
    assert run("train", "--data", data, "--out", out, *given) == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["config"]
    changes = {"kappa": 0.75, "hidden": 3, "epochs": 1, "threads": 1}
    assert config == preset("best", **changes).to_mapping()


def test_bad_presets_are_one_line(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run("train", "--data", data, "--out", out, "--preset", "bset") == 2
    assert "best" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("preset: best\n")
    assert run("train", "--config", str(tmp_path / "c.yaml"), "--data", data, "--out", out) == 2
    assert "--preset on the command line" in capsys.readouterr().err
    assert run("train", "--resume", out, "--preset", "best") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_preset_trains(data: str, tmp_path: Path) -> None:
    for name in PRESETS:
        out = str(tmp_path / name)
        assert run("train", "--data", data, "--out", out, "--preset", name, *SMALL) == 0
