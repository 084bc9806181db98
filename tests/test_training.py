"""Training: the recipe, what a run leaves behind, and that no kill changes the outcome."""

import errno
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equicert.bounds import Lipschitz
from equicert.certification import certify
from equicert.checkpoints import Checkpoint, recorded_run
from equicert.data import DataSet
from equicert.errors import (
    ConfigError,
    DataError,
    ModelError,
    NotContractingError,
    NotConvergedError,
    OutputError,
    RowSumError,
)
from equicert.initialisation import initial_weight
from equicert.lipschitz import Derived
from equicert.models import load_model, model_metadata, save_model
from equicert.policies import ConvergenceWarning
from equicert.runs import claim_folder, read_lines
from equicert.schedules import TrainConfig
from equicert.sequential import to_sequential
from equicert.stored import StoredNetwork
from equicert.training import DivergedError, Progress, Trainer, evaluate
from equicert.weights import Contracting, RowSum

FILES = {"run.json", "config.yaml", "metrics.jsonl", "checkpoint.pt", "model.safetensors"}


def blobs(train: int = 60, test: int = 21, classes: int = 3, domain: Any = (0.0, 1.0)) -> DataSet:
    """Return well-separated classes in the unit square."""
    rng = np.random.default_rng(7)
    centres = np.array([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])

    def draw(size: int) -> tuple[Any, Any]:
        labels = np.arange(size) % classes
        return np.clip(centres[labels] + rng.normal(0, 0.05, (size, 2)), 0, 1), labels

    return DataSet("blobs", *draw(train), *draw(test), domain=domain)


def small(**changes: Any) -> TrainConfig:
    settings = {"hidden": 4, "epochs": 4, "batch_size": 25, "learning_rate": 0.02, "threads": 1}
    return TrainConfig(**(settings | changes))


def lipschitz(weight: float, **changes: Any) -> TrainConfig:
    rates = {"learning_rate": 0.05, "learning_rate_late": 0.01}
    settings = {"recipe": "lipschitz", "lipschitz_weight": weight, "hidden": 8, "epochs": 25}
    return small(**(settings | rates | {"eps": 0.15} | changes))


def timeless(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in metrics]


class StopAt(Progress):
    """Interrupts a run at a step, as Ctrl-C does."""

    def __init__(self, epoch: int, step: int) -> None:
        self.moment = epoch, step

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        assert 1 <= step <= steps
        assert loss > 0
        if (epoch, step) == self.moment:
            raise KeyboardInterrupt


def interrupt(out: Path, config: TrainConfig, epoch: int = 3, step: int = 2) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainer(blobs(), config, out, progress=StopAt(epoch, step)).run()


# --- the recipe


@pytest.mark.parametrize(
    ("time", "eps", "kappa", "rate"),
    [
        (0, 0.0, 0.0, 5e-4),
        (9.999, 0.0, 0.0, 5e-4),
        (10, 0.0, 0.0, 5e-4),
        (12, 0.02, 0.15, 5e-4),
        (15, 0.05, 0.375, 5e-4),
        (20, 0.1, 0.75, 5e-4),
        (29.999, 0.1, 0.75, 5e-4),
        (30, 0.1, 0.75, 1e-4),
        (39.999, 0.1, 0.75, 1e-4),
    ],
)
@pytest.mark.parametrize("epochs", [40, 10, 1, 100])
def test_default_is_the_published_recipe(
    time: float, eps: float, kappa: float, rate: float, epochs: int
) -> None:
    now = TrainConfig(epochs=epochs).at(time * epochs / 40)
    assert now.eps == pytest.approx(eps, abs=1e-12)
    assert now.kappa == pytest.approx(kappa, abs=1e-12)
    assert now.learning_rate == rate


def test_published_settings() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.gamma) == (40, 100, 0.0)
    milestones = [config.milestone(name) for name in ("ramp_start", "ramp_end", "late_epoch")]
    assert milestones == [10, 20, 30]


@given(
    start=st.floats(0, 20, allow_subnormal=False),
    width=st.floats(0, 20),
    times=st.lists(st.floats(0, 50), min_size=2),
)
def test_ramps_only_rise_and_reach_their_values(
    start: float, width: float, times: list[float]
) -> None:
    config = TrainConfig(ramp_start=start, ramp_end=start + width, eps=0.3, kappa=0.5)
    settings = [config.at(time) for time in sorted(times)]
    assert all(a.eps <= b.eps for a, b in itertools.pairwise(settings))
    assert all(now.kappa == pytest.approx(now.eps * 0.5 / 0.3) for now in settings)
    assert config.at(start + width).eps == 0.3
    assert start == 0 or config.at(start * (1 - 1e-9)).eps == 0


# Each bad value, and a piece of the message.
BAD = [
    ("hidden", 0, "hidden must be an integer >= 1, got 0"),
    ("hidden", 1.5, "hidden must be an integer, got 1.5"),
    ("hidden", True, "hidden must be an integer, got True"),
    ("hidden", "many", "hidden must be an integer, got 'many'"),
    ("epochs", 0, "epochs must be"),
    ("epochs", None, "epochs must be an integer, got None"),
    ("batch_size", -1, "batch_size must be an integer >= 1, got -1"),
    ("gamma", 1.0, "gamma must be finite and < 1, got 1.0"),
    ("gamma", float("-inf"), "gamma must be"),
    ("weights", "free", "weights must be one of contracting, row-sum"),
    ("row_sum_bound", 0.0, r"row_sum_bound must be in \(0, 1\), got 0.0"),
    ("row_sum_bound", 1.0, "row_sum_bound must be in"),
    ("row_sum_bound", float("nan"), "row_sum_bound must be in"),
    ("row_sum_bound", 0.5, "belongs to weights 'row-sum', not to 'contracting'; leave it out"),
    ("eps", -0.1, "eps must be finite and >= 0, got -0.1"),
    ("eps", float("nan"), "eps must be finite and >= 0, got nan"),
    ("eps", float("inf"), "eps must be"),
    ("eps", 10**400, "eps must be a number that float64 holds, got 1000"),
    ("eps", "0.1", "eps must be a number that float64 holds, got '0.1'"),
    ("kappa", 1.01, r"kappa must be in \[0, 1\], got 1.01"),
    ("kappa", -0.01, "kappa must be in"),
    ("learning_rate", 0.0, "learning_rate must be finite and > 0, got 0.0"),
    ("learning_rate_late", float("nan"), "learning_rate_late must be"),
    ("late_epoch", -1, "late_epoch must be"),
    ("ramp_start", -1, "ramp_start must be"),
    ("ramp_end", float("inf"), "ramp_end must be"),
    ("ramp_start", 21, "ramp_start must not exceed ramp_end, which is 20 of 40 epochs, got 21"),
    ("ramp_end", 9, "ramp_start must not exceed ramp_end, which is 9"),
    ("seed", -1, r"seed must be an integer in \[0, 2\^63\), got -1"),
    ("seed", 2**63, "seed must be"),
    ("threads", 0, "threads must be"),
    ("tolerance", 0.0, "tolerance must be"),
    ("max_steps", 0, "max_steps must be"),
    ("evaluate_samples", -1, "evaluate_samples must be"),
    (
        "recipe",
        "lipshitz",
        "recipe must be one of inclusion, lipschitz, adversarial, small-box, got 'lipshitz'",
    ),
    ("clip_norm", 0.0, "clip_norm must be finite and > 0, got 0"),
    ("clip_norm", float("inf"), "clip_norm must be finite and > 0"),
    ("lipschitz_weight", -1e-5, "lipschitz_weight must be finite and >= 0, got -1e-05"),
    ("lipschitz_weight", float("nan"), "lipschitz_weight must be"),
    ("lipschitz_weight", 1e-3, "lipschitz_weight belongs to recipe 'lipschitz'"),
    ("lipschitz_bound", "row", "lipschitz_bound must be one of weighted, row-sum, derived, got"),
    ("lipschitz_bound", "derived", "not to 'inclusion'; leave it out"),
    ("dtype", "float16", "dtype must be one of float32, float64, got 'float16'"),
    ("solver", "newton", "solver must be one of default, picard, anderson, average"),
    ("on_unconverged", "ignore", "on_unconverged must be one of raise, warn"),
    ("on_unconverged", ["warn"], "on_unconverged must be one of"),
    ("activation", 3, "activation must be a text"),
    ("device", None, "device must be a text"),
    (
        "weights",
        "free",
        "convolutional, feed-forward, monotone, lben, got 'free'",
    ),
    ("weights", "feed-forward", "feed-forward weights need layers, such as 100,75,50"),
    ("layers", "100,75", "layers belongs to weights 'feed-forward', not to 'contracting'"),
    ("layers", 100, "layers must be a text, got 100"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_bad_setting(name: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        TrainConfig.from_mapping({name: value})
    assert len(str(error.value)) < 150
    assert "\n" not in str(error.value)


def test_settings_of_other_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="gamma belongs to weights 'contracting'"):
        TrainConfig(weights="row-sum", gamma=0.5)
    row_sum = TrainConfig(weights="row-sum", row_sum_bound=0.5, hidden=7)
    assert row_sum.weight_settings() == {"hidden": 7, "row_sum_bound": 0.5}
    assert TrainConfig(gamma=0.5).weight_settings() == {"hidden": 100, "gamma": 0.5}


def test_initial_weight_is_the_one_of_the_settings() -> None:
    held = initial_weight(small(gamma=-0.5))
    assert isinstance(held, Contracting)
    assert held.gamma == -0.5
    held = initial_weight(small(weights="row-sum", row_sum_bound=0.25, hidden=7))
    assert isinstance(held, RowSum)
    assert (held.bound, held().shape) == (0.25, (7, 7))


@pytest.mark.parametrize(
    ("name", "value"),
    [("kappa", 0.5), ("overshoot", 1.05), ("ramp_start", 0.0), ("ramp_end", 12.0)],
)
def test_settings_of_another_recipe_are_refused(name: str, value: float) -> None:
    TrainConfig(recipe="lipschitz", eps=0.2)  # the radius that is certified after each epoch
    with pytest.raises(ConfigError, match=f"{name} belongs to recipe 'inclusion'"):
        TrainConfig(recipe="lipschitz", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", ["", "5,", "5,0", "-5", "5;4", "five", "2.5", "1e3"])
def test_bad_layers(layers: str) -> None:
    with pytest.raises(ConfigError, match=f"integers >= 1 .* got '{layers}'"):
        TrainConfig(weights="feed-forward", layers=layers)


@pytest.mark.parametrize(("name", "value"), [("hidden", 50), ("gamma", -0.5)])
def test_what_layers_leave_no_room_for(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} belongs to weights 'contracting'"):
        TrainConfig.from_mapping({"weights": "feed-forward", "layers": "5,4", name: value})


def test_layers_are_the_states() -> None:
    assert TrainConfig(weights="feed-forward", layers="7, 5").widths == (7, 5)
    assert TrainConfig(weights="feed-forward", layers="7,5").states == 12
    assert (TrainConfig(hidden=9).states, TrainConfig().widths) == (9, ())


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        TrainConfig.from_mapping({"epoch": 3})


def test_settings_come_back() -> None:
    config = TrainConfig(eps=1, gamma=np.float64(-0.5), hidden=np.int64(3).item(), ramp_start=None)
    assert type(config.eps) is float
    assert type(config.gamma) is float
    again = TrainConfig.from_mapping(yaml.safe_load(yaml.safe_dump(config.to_mapping())))
    assert again == config


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"activation": "silu"}, ModelError, "silu"),
        ({"activation": "gelu"}, ModelError, "gelu"),
        ({"activation": "rellu"}, ModelError, "relu"),
        ({"device": "abacus"}, ConfigError, "device 'abacus' cannot be used"),
        ({"device": "cuda:99"}, ConfigError, "device 'cuda:99' cannot be used"),
    ],
)
def test_setting_that_does_not_exist_leaves_no_folder(
    tmp_path: Path, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Trainer(blobs(), small(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="one class only"):
        Trainer(blobs(classes=1), small())


# --- what training does


def test_training_learns_a_robust_network() -> None:
    config = small(hidden=8, epochs=25, eps=0.15, learning_rate=0.05, learning_rate_late=0.01)
    data = blobs()
    trained = Trainer(data, config).run()
    first, last = trained.metrics[0], trained.metrics[-1]
    assert last["loss"] < first["loss"] / 2
    assert last["clean_accuracy"] == 1.0
    assert last["certified_accuracy"] > 0.8
    assert first["certified_accuracy"] < last["certified_accuracy"]
    plain = small(hidden=8, epochs=25, eps=0.15, learning_rate=0.05, kappa=0.0)
    nominal = Trainer(data, plain).run()
    assert nominal.metrics[-1]["certified_accuracy"] < last["certified_accuracy"]


def test_metrics_say_what_happened() -> None:
    config, data = small(evaluate_samples=9), blobs()
    trained = Trainer(data, config).run()
    assert [line["epoch"] for line in trained.metrics] == [1, 2, 3, 4]
    for line in trained.metrics:
        assert json.loads(json.dumps(line, allow_nan=False)) == line
        assert 0 <= line["certified_accuracy"] <= line["clean_accuracy"] <= 1
        assert line["certified_accuracy"] * 9 == pytest.approx(
            round(line["certified_accuracy"] * 9)
        )
        assert line["certified_eps"] == config.eps
        assert line["mu"] < 1e-5
        assert line["eta_ratio"] >= 1
        assert line["seconds"] > 0
        primal = [line[f"{what}_steps"] for what in ("forward", "embedded", "joint")]
        assert max(steps for steps in primal if steps is not None) >= 1
        assert line["adjoint_steps"] >= 1
        assert line["forward_unconverged"] == line["joint_unconverged"] == 0
        now = config.at(line["epoch"] - 1 / 3)  # the last of three steps
        assert (line["eps"], line["kappa"], line["learning_rate"]) == pytest.approx(
            (now.eps, now.kappa, now.learning_rate)
        )
    robust = [line["robust_loss"] is not None for line in trained.metrics]
    assert robust == [line["joint_steps"] is not None for line in trained.metrics]
    assert robust == [False, True, True, True]
    last = trained.metrics[-1]
    mixed = 0.25 * last["nominal_loss"] + 0.75 * last["robust_loss"]
    assert last["loss"] == pytest.approx(mixed, rel=1e-5)
    assert last["mu"] == trained.network.contraction.mu
    assert all(line["lipschitz_bound"] is None for line in trained.metrics)


@pytest.mark.parametrize("bound", ["weighted", "derived"])
def test_a_lipschitz_penalty_certifies_more(bound: str) -> None:
    data = blobs()
    plain, penalised = (
        Trainer(data, lipschitz(weight, lipschitz_bound=bound)).run() for weight in (0.0, 0.01)
    )
    for trained, constant in zip((plain, penalised), (False, True), strict=True):
        for line in trained.metrics:
            assert json.loads(json.dumps(line, allow_nan=False)) == line
            nothing = ("robust_loss", "eps", "kappa", "joint_steps", "embedded_steps")
            assert [line[key] for key in nothing] == [None] * 5
            assert (line["lipschitz_bound"] is not None) is constant
            assert line["forward_steps"] >= 1
        assert trained.metrics[-1]["clean_accuracy"] == 1.0
    last = penalised.metrics[-1]
    assert last["loss"] == pytest.approx(last["nominal_loss"] + 0.01 * last["lipschitz_bound"])
    assert plain.metrics[-1]["certified_accuracy"] < last["certified_accuracy"]
    constants = [Derived().constant(trained.network) for trained in (plain, penalised)]
    assert constants[1] < constants[0] / 2
    x, labels = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    method = Lipschitz()
    verdicts = certify(penalised.network, x, labels, 0.15, domain=data.domain, method=method)
    held = sum(verdict.status == "certified" for verdict in verdicts) / len(x)
    assert last["certified_accuracy"] == held


def test_row_sum_needs_weights_that_keep_the_row_sums() -> None:
    with pytest.raises(RowSumError, match=r"row \d+ of W sums to"):
        Trainer(blobs(), lipschitz(0.01, hidden=20, lipschitz_bound="row-sum")).run()


def test_a_model_tells_how_it_was_trained(tmp_path: Path) -> None:
    config = lipschitz(0.01, epochs=1, lipschitz_bound="derived")
    Trainer(blobs(), config, tmp_path).run()
    told = model_metadata(tmp_path / "model.safetensors")
    wanted = {"recipe": "lipschitz", "lipschitz_weight": "0.01", "lipschitz_bound": "derived"}
    assert told.items() >= wanted.items()
    assert "trained_kappa" not in told


def test_evaluation_is_that_of_the_stored_network() -> None:
    data = blobs()
    network = Trainer(data, small(epochs=8, input_gain=1.0)).run().network
    x, labels = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    clean = float((network.predict(x).argmax(1) == labels).double().mean())
    verdicts = certify(network, x, labels, 0.1, domain=data.domain)
    certified = sum(verdict.status == "certified" for verdict in verdicts) / len(x)
    assert 0 < certified < clean
    assert evaluate(network, data, small()) == (clean, certified)
    assert evaluate(network, data, small(evaluate_samples=0)) == (clean, None)
    every_third = float((network.predict(x[::3]).argmax(1) == labels[::3]).double().mean())
    assert evaluate(network, data, small(evaluate_samples=7))[0] == every_third


def test_each_epoch_takes_every_sample_once_in_an_order_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: dict[int, list[int]] = {}
    step = Trainer._step

    def watched(self: Trainer, epoch: int, index: int, steps: int, rows: torch.Tensor) -> Any:
        taken.setdefault(epoch, []).extend(rows.tolist())
        return step(self, epoch, index, steps, rows)

    monkeypatch.setattr(Trainer, "_step", watched)
    Trainer(blobs(), small()).run()
    assert [sorted(rows) for rows in taken.values()] == 4 * [list(range(60))]
    assert len({tuple(rows) for rows in taken.values()}) == 4


def test_outcome_depends_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = Trainer(blobs(), small()).run()
    torch.manual_seed(2)
    torch.set_default_dtype(torch.float32)
    before = torch.random.get_rng_state()
    second = Trainer(blobs(), small()).run()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    other = Trainer(blobs(), small(seed=1)).run()
    assert first.network.digest == second.network.digest != other.network.digest
    assert timeless(first.metrics) == timeless(second.metrics)


@pytest.mark.parametrize("changes", [{"dtype": "float64"}, {"solver": "average"}])
def test_other_arithmetic_finds_nearly_the_same(changes: dict[str, Any]) -> None:
    usual = Trainer(blobs(), small(tolerance=1e-6)).run()
    other = Trainer(blobs(), small(tolerance=1e-6, **changes)).run()
    assert usual.network.digest != other.network.digest
    if changes.get("solver"):  # float64 starts from other weights
        assert usual.metrics[-1]["loss"] == pytest.approx(other.metrics[-1]["loss"], rel=1e-2)
        assert other.metrics[-1]["joint_steps"] > usual.metrics[-1]["joint_steps"]


class SeeThreads(Progress):
    """Notes how many threads torch uses in each epoch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def epoch(self, metrics: dict[str, Any]) -> None:
        del metrics
        self.seen.append(torch.get_num_threads())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_config_and_given_back(threads: int) -> None:
    before, progress = torch.get_num_threads(), SeeThreads()
    Trainer(blobs(), small(epochs=1, threads=threads), progress=progress).run()
    assert progress.seen == [threads]
    assert torch.get_num_threads() == before


class FirstGradient(Progress):
    """Keeps what the optimiser was given in the first step, as one vector."""

    trainer: Trainer
    found: Tensor | None = None

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        del epoch, step, steps, loss
        if self.found is None:
            parts = (p.grad for p in self.trainer.network.parameters())
            self.found = torch.cat([g.clone().flatten() for g in parts if g is not None])


def first_gradient(clip_norm: float | None) -> Tensor:
    progress = FirstGradient()
    progress.trainer = Trainer(blobs(), small(clip_norm=clip_norm, epochs=1), progress=progress)
    progress.trainer.run()
    assert progress.found is not None
    return progress.found


def test_long_gradients_are_scaled_down_and_others_left() -> None:
    free = first_gradient(None)
    norm = float(free.norm())
    assert torch.equal(first_gradient(2 * norm), free)
    clipped = first_gradient(norm / 8)
    assert float(clipped.norm()) == pytest.approx(norm / 8, rel=1e-3)
    torch.testing.assert_close(clipped * 8, free, rtol=1e-3, atol=1e-3 * norm)


# --- what can go wrong while training


def test_divergence_is_named_with_its_epoch(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"epoch \d: .*lower the learning rate \(1e\+30"):
        Trainer(blobs(), small(learning_rate=1e30), tmp_path).run()
    assert "model.safetensors" not in {path.name for path in tmp_path.iterdir()}


def test_unconverged_solve_raises() -> None:
    with pytest.raises(NotConvergedError, match="raise max_steps"):
        Trainer(blobs(), small(max_steps=1)).run()


def test_unconverged_solve_warns_and_is_counted() -> None:
    config = small(max_steps=2, tolerance=1e-6, on_unconverged="warn")
    with pytest.warns(ConvergenceWarning, match="missed the tolerance") as warned:
        trained = Trainer(blobs(), config).run()
    assert len(warned) <= 3  # once for each kind of solve
    counts = {
        what: [line[f"{what}_unconverged"] for line in trained.metrics]
        for what in ("forward", "joint")
    }
    assert 0 < counts["forward"][0] <= 60
    assert counts["joint"][0] == 0  # there was none
    assert counts["forward"][-1] == 0
    assert 0 < counts["joint"][-1] <= 60


# --- the folder


def test_folder_holds_everything(tmp_path: Path) -> None:
    data, config = blobs(), small()
    trained = Trainer(data, config, tmp_path / "run", spec="some/blobs.npz").run()
    out = tmp_path / "run"
    assert {path.name for path in out.iterdir()} == FILES
    assert read_lines(out / "metrics.jsonl") == trained.metrics
    model = load_model(out / "model.safetensors")
    assert model.digest == trained.network.digest
    metadata = model_metadata(out / "model.safetensors")
    assert metadata["data_digest"] == data.digest
    assert (metadata["weights"], metadata["gamma"]) == ("contracting", "0.0")
    record = yaml.safe_load((out / "config.yaml").read_text())
    assert record["model_digest"] == model.digest
    assert record["data"] == {
        "spec": "some/blobs.npz", "name": "blobs", "digest": data.digest, "domain": [0.0, 1.0]
    }  # fmt: skip
    assert record["versions"].keys() >= {"python", "torch", "equicert"}
    assert record["threads"] == record["config"]["threads"] == 1
    recorded = recorded_run(out)
    assert (recorded.config, recorded.spec) == (config, "some/blobs.npz")


def test_row_sum_weights_are_trained_and_told(tmp_path: Path) -> None:
    config = small(weights="row-sum", row_sum_bound=0.75, hidden=8, epochs=60, eps=0.02)
    trained = Trainer(blobs(), config, tmp_path).run()
    sums = trained.network.W.absolute_row_sums()
    assert float(sums.amax()) <= 0.75 * (1 + 1e-6)
    first, last = trained.metrics[0], trained.metrics[-1]
    assert last["nominal_loss"] < first["nominal_loss"]
    assert last["clean_accuracy"] > 0.9
    assert last["eta_ratio"] == 1.0
    assert last["mu"] <= 0.75 * (1 + 1e-6)
    metadata = model_metadata(tmp_path / "model.safetensors")
    assert (metadata["weights"], metadata["row_sum_bound"]) == ("row-sum", "0.75")
    assert "gamma" not in metadata
    assert recorded_run(tmp_path).config == config


def test_what_a_file_says_of_its_weights_is_not_believed(tmp_path: Path) -> None:
    held = StoredNetwork.from_arrays(
        np.array([[0.0, 2.0], [2.0, 0.0]]), np.ones((2, 1)), np.ones(2), np.eye(2), np.zeros(2)
    )
    told = {"weights": "row-sum", "row_sum_bound": "0.5"}
    save_model(tmp_path / "m.safetensors", held, told)
    network = load_model(tmp_path / "m.safetensors")
    with pytest.raises(NotContractingError):
        _ = network.contraction


@pytest.mark.parametrize(
    "domain", [None, (0.0, 1.0), (-0.5, 1.25), (np.zeros(2), np.array([1.0, 2.0]))]
)
def test_recorded_domain_is_that_of_the_run(tmp_path: Path, domain: Any) -> None:
    trained_on = blobs(domain=domain)
    Trainer(trained_on, small(epochs=1), tmp_path).run()
    # The file has a domain of its own; that of the run may have been another.
    loaded = trained_on if isinstance(domain, tuple) and np.ndim(domain[0]) else blobs()
    data = recorded_run(tmp_path).restrict(loaded)
    Trainer(data, small(epochs=1), tmp_path, resume=True).run()
    assert str(data.domain) == str(domain)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no training run to resume"):
        recorded_run(tmp_path)
    (tmp_path / "config.yaml").write_text("- not\n- a record\n")
    with pytest.raises(OutputError, match="cannot be read as the record"):
        recorded_run(tmp_path)
    text = "config: {epochz: 3}\ndata: {spec: digits, domain: null}\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="epochz"):
        recorded_run(tmp_path)


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 3), (3, 2), (4, 3)])
def test_interrupted_run_resumes_to_the_same_end(tmp_path: Path, epoch: int, step: int) -> None:
    whole = Trainer(blobs(), small()).run()
    interrupt(tmp_path, small(), epoch, step)
    assert "model.safetensors" not in {path.name for path in tmp_path.iterdir()}
    recorded = recorded_run(tmp_path)
    resumed = Trainer(blobs(), recorded.config, tmp_path, resume=True).run()
    assert resumed.network.digest == whole.network.digest
    assert timeless(resumed.metrics) == timeless(whole.metrics)


@pytest.mark.parametrize("bound", ["weighted", "derived"])
def test_interrupted_lipschitz_run_resumes_to_the_same_end(tmp_path: Path, bound: str) -> None:
    config = lipschitz(0.01, epochs=4, lipschitz_bound=bound)
    whole = Trainer(blobs(), config).run()
    interrupt(tmp_path, config)
    recorded = recorded_run(tmp_path)
    assert recorded.config == config
    resumed = Trainer(blobs(), recorded.config, tmp_path, resume=True).run()
    assert resumed.network.digest == whole.network.digest
    assert timeless(resumed.metrics) == timeless(whole.metrics)


def test_layers_are_trained_and_resumed(tmp_path: Path) -> None:
    config = TrainConfig(
        weights="feed-forward",
        layers="16,8,8",
        activation="leaky_relu(0.1)",  # in layers so narrow, ReLUs may be dead from the start
        eps=0.05,
        epochs=12,
        batch_size=20,
        learning_rate=0.03,
        input_gain=1.0,
        threads=1,
    )
    whole = Trainer(blobs(), config, tmp_path / "whole").run()
    assert whole.metrics[-1]["certified_accuracy"] > 0.9
    assert whole.metrics[-1]["adjoint_steps"] == 3
    assert whole.metrics[-1]["mu"] == pytest.approx(0.75, rel=1e-9)
    module = to_sequential(load_model(tmp_path / "whole/model.safetensors"), (16, 8, 8))
    x = torch.from_numpy(blobs().x_test)
    assert torch.allclose(module(x), whole.network.predict(x), rtol=1e-12, atol=1e-12)
    told = model_metadata(tmp_path / "whole/model.safetensors")
    assert (told["weights"], told["layers"]) == ("feed-forward", "16,8,8")

    interrupt(tmp_path / "cut", config)
    recorded = recorded_run(tmp_path / "cut")
    assert recorded.config == config
    resumed = Trainer(blobs(), recorded.config, tmp_path / "cut", resume=True).run()
    assert resumed.network.digest == whole.network.digest
    other = replace(config, layers="16,8,4")
    with pytest.raises(OutputError, match=r"layers is .16,8,8. there and .16,8,4. here"):
        Trainer(blobs(), other, tmp_path / "cut", resume=True).run()


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    Trainer(blobs(), small(), tmp_path).run()
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    Trainer(blobs(), small(), tmp_path, resume=True, progress=StopAt(1, 1)).run()
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_thread_count_is_kept_on_resuming(tmp_path: Path) -> None:
    config, progress = small(threads=None), SeeThreads()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        interrupt(tmp_path, config)
        torch.set_num_threads(2)
        Trainer(blobs(), config, tmp_path, resume=True, progress=progress).run()
    finally:
        torch.set_num_threads(before)
    assert progress.seen == [1, 1]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["threads"] == 1


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (blobs(), {"eps": 0.2}, "eps is 0.1 there and 0.2 here"),
        (blobs(), {"epochs": 5}, "epochs is 4 there and 5 here"),
        (blobs(train=59), {}, "data_digest is"),
        (blobs(domain=None), {}, r"domain is \[0.0, 1.0\] there and null here"),
        (blobs(domain=(np.zeros(2), np.ones(2))), {}, 'domain is .* "sha256:'),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_folder_of_another_run(
    tmp_path: Path, data: DataSet, changes: dict[str, Any], said: str, resume: bool
) -> None:
    interrupt(tmp_path, small())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=said):
        Trainer(data, small(**changes), tmp_path, resume=resume).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_occupied_folder(tmp_path: Path) -> None:
    interrupt(tmp_path / "same", small())
    with pytest.raises(OutputError, match="this very run already; resume"):
        Trainer(blobs(), small(), tmp_path / "same").run()
    claim_folder(tmp_path / "other", "certify", {})
    with pytest.raises(OutputError, match="another run: 'certify', not 'train'"):
        Trainer(blobs(), small(), tmp_path / "other", resume=True).run()


def test_damage_is_noticed(tmp_path: Path) -> None:
    interrupt(tmp_path, small())
    resumed = Trainer(blobs(), small(), tmp_path, resume=True)
    checkpoint = tmp_path / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    other = Trainer(blobs(), small(hidden=5))
    state = Checkpoint(2, 1, other.network.state_dict(), {})
    for damaged in (b"", whole[: len(whole) // 2], b"garbage"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(OutputError, match="cannot be read as a checkpoint"):
            resumed.run()
    torch.save({"format": 999}, checkpoint)
    with pytest.raises(OutputError, match="another version"):
        resumed.run()
    state.save(checkpoint)
    with pytest.raises(OutputError, match="not of this run"):
        resumed.run()
    checkpoint.write_bytes(whole)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(OutputError, match="0 complete lines where 2"):
        resumed.run()


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 7, 8, 9])
def test_full_disk_leaves_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    whole = Trainer(blobs(), small()).run()
    fsync, left = os.fsync, writes

    def filling(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", filling)
        with pytest.raises(OutputError, match="free some space") as error:
            Trainer(blobs(), small(), tmp_path).run()
        assert "\n" not in str(error.value)
        assert not list(tmp_path.glob(".*.tmp"))
    resumed = Trainer(blobs(), small(), tmp_path, resume=True).run()
    assert resumed.network.digest == whole.network.digest
    assert timeless(resumed.metrics) == timeless(whole.metrics)


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="Read-only file system; choose a folder"):
        Trainer(blobs(), small(), tmp_path / "out").run()


# --- kills

# Run in a process of its own, which imports torch once and forks a child for each life of a run.
# A moment is the k-th call of some function; the child kills itself just before, after, or (while
# a line is appended) in the middle. Then another child resumes the run to its end.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_training import blobs, small
from equicert.runs import JsonLines
from equicert.training import Trainer

root = Path(sys.argv[1])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def arrange(owner, name, k, when):
    original, calls = getattr(owner, name), [0]
    def patched(*args, **kwargs):
        calls[0] += 1
        if calls[0] == k and when == "before":
            die()
        if calls[0] == k and when == "amid":
            args[0]._file.write(b'{"epoch": 1, "lo'); args[0]._file.flush(); die()
        result = original(*args, **kwargs)
        if calls[0] == k:
            die()
        return result
    setattr(owner, name, patched)

def live(out, *moment, delay=None):
    pid = os.fork()
    if pid == 0:
        try:
            if moment:
                arrange(*moment)
            Trainer(blobs(), small(), out, resume=True).run()
        finally:
            os._exit(17 if sys.exc_info()[0] else 0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"{out.name}: exit status {status}"
    return status == 0

Trainer(blobs(), small()).run()  # what loads on first use is loaded once, not in every life
began = time.perf_counter()
assert live(root / "whole")
life = time.perf_counter() - began
moments = [(Path, "replace", k, when) for k in range(1, 10) for when in ("before", "after")]
moments += [(os, "fsync", k, "before") for k in range(1, 10, 2)]
moments += [(JsonLines, "append", k, when) for k in (1, 2, 4) for when in ("amid", "after")]
moments += [(Trainer, "_step", k, "after") for k in (1, 5, 12)]
for moment in moments:
    out = root / "-".join((moment[1], str(moment[2]), moment[3]))
    assert not live(out, *moment), f"{out.name} was not killed"
    assert live(out), f"{out.name} did not end"
for k in range(3):
    out = root / f"random-{k}"
    while not live(out, delay=random.uniform(0, life)):
        pass
"""


def test_killed_at_any_moment_the_run_ends_the_same(tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    outcomes = {
        out.name: (
            {path.name for path in out.iterdir()},
            (out / "model.safetensors").read_bytes(),
            timeless(read_lines(out / "metrics.jsonl")),
            yaml.safe_load((out / "config.yaml").read_text()),
        )
        for out in tmp_path.iterdir()
    }
    assert len(outcomes) > 30
    whole = outcomes["whole"]
    assert whole[0] == FILES
    assert len(whole[2]) == 4
    assert isinstance(load_model(tmp_path / "whole" / "model.safetensors"), StoredNetwork)
    assert [name for name, outcome in outcomes.items() if outcome != whole] == []
