"""`LayeredNetwork`: boxes and gradients through all layers, training, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import exact
from architectures import architectures
from command import run
from equicert.activations import parse_activation
from equicert.adversarial import SignAscent
from equicert.attacks import PGD
from equicert.bounds import Complete, Dual, Interval, Method
from equicert.boxes import Box
from equicert.certification import certify
from equicert.checkpoints import Checkpoint
from equicert.data import DataSet
from equicert.errors import ConfigError, InputError, ModelError
from equicert.image import reach
from equicert.initialisation import initial_network
from equicert.layered import LayeredNetwork
from equicert.losses import elided_margins, inclusion_loss
from equicert.network import ImplicitNetwork
from equicert.policies import Raise
from equicert.runs import read_lines
from equicert.schedules import TrainConfig
from equicert.training import Progress, Trainer, evaluate

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
Made = tuple[nn.Sequential, int]


def points(inputs: int, samples: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, inputs, generator=generator, dtype=torch.float64)


def layered(normalised: bool = True, phi: type[nn.Module] = nn.ReLU) -> LayeredNetwork:
    """Two explicit layers of different kinds, an implicit block, and layers after it."""
    torch.manual_seed(2)
    activation = {nn.ReLU: "relu", nn.Tanh: "tanh"}[phi]
    block = ImplicitNetwork(3, 4, 3, activation=parse_activation(activation), tolerance=1e-11)
    front = [nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)] if normalised else [nn.Conv2d(1, 2, 2)]
    return LayeredNetwork(
        nn.Sequential(
            *(nn.Unflatten(1, (1, 3, 3)), *front, phi(), nn.Flatten(), nn.Linear(8, 3), phi()),
            *(block, phi(), nn.Linear(3, 3)),
        ),
        inputs=9,
    )


def affine_in_a_row(module: nn.Sequential) -> bool:
    """Whether products are bounded one after another here, and multiplied out when stored."""
    shapes = (nn.Flatten, nn.Unflatten, nn.BatchNorm1d, nn.BatchNorm2d)
    kinds = [type(layer) for layer in module if not isinstance(layer, shapes)]
    mixing = (nn.Linear, nn.Conv2d, nn.AvgPool2d, ImplicitNetwork)
    return any(
        issubclass(one, mixing) and issubclass(other, mixing) for one, other in pairwise(kinds)
    )


# Boxes.


@settings(max_examples=15)
@given(made=architectures(most=4))
def test_boxes_hold_every_point_and_the_proved_box(made: Made) -> None:
    module, inputs = made
    network = LayeredNetwork(module, inputs).eval()
    x = points(inputs)
    lo, hi = x - 0.1, x + 0.1
    zlo, zhi = network.reach(lo, hi)
    z, again_lo, again_hi = network.state_and_reach(x, lo, hi)
    torch.testing.assert_close((again_lo, again_hi), (zlo, zhi), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(network.read_out(z), module(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(network(x), module(x), rtol=1e-8, atol=1e-8)
    slack = 1e-8 * (1 + zhi.abs())
    for seed in range(4):
        within = lo + (hi - lo) * points(inputs, seed=seed).round(decimals=seed % 2)
        state = network.state(within, network.materialise())
        assert bool(((zlo - slack <= state) & (state <= zhi + slack)).all())
    # Outputs as they are certified: affine layers in a row, multiplied out, bound more tightly.
    middle, radius = network.read_out(0.5 * (zlo + zhi)), 0.5 * (zhi - zlo) @ network.C.abs().mT
    proved = reach(network.store(), Box(lo, hi)).output
    slack = 1e-6 * (1 + proved.hi.abs())
    assert bool((middle - radius <= proved.lo + slack).all())
    assert bool((proved.hi <= middle + radius + slack).all())
    if not affine_in_a_row(module):
        torch.testing.assert_close(proved.lo, middle - radius, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(proved.hi, middle + radius, rtol=1e-6, atol=1e-6)


def test_margins_in_training_are_those_that_are_certified() -> None:
    network, x = layered(), points(9)
    network.train()
    network.state(points(9, 30), network.materialise())
    labels = network.eval()(x).argmax(1)
    margins = elided_margins(network.C, network.c, *network.reach(x - 0.05, x + 0.05), labels)
    verdicts = certify(network.store(), x, labels, 0.05, method=Interval())
    rivals = margins.detach().scatter(1, labels[:, None], torch.inf).amin(1)
    for verdict, least in zip(verdicts, rivals.tolist(), strict=True):
        assert verdict.status in ("certified", "unknown")
        assert verdict.margin == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("phi", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ELU])
def test_activations_in_place_change_nothing(phi: type[nn.Module]) -> None:
    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), phi(inplace=in_place))
        module = nn.Sequential(nn.Unflatten(1, (1, 3, 3)), *layers, nn.Flatten(), nn.Linear(8, 3))
        network, x = LayeredNetwork(module.double(), 9), points(9)
        labels, before = torch.zeros(3, dtype=torch.int64), x.clone()
        inclusion_loss(network, x, labels, eps=0.1, kappa=0.5).total.backward()
        assert torch.equal(x, before)
        found.append([p.grad for p in network.parameters()])
    for plain, in_place in zip(*found, strict=True):
        torch.testing.assert_close(plain, in_place)


def test_a_block_may_stand_in_two_places() -> None:
    torch.manual_seed(0)
    block = ImplicitNetwork(3, 3, 3, tolerance=1e-11)
    network = LayeredNetwork(nn.Sequential(block, nn.ReLU(), block), 3)
    x = points(3)
    torch.testing.assert_close(network(x), block(block(x).relu()))
    torch.testing.assert_close(network(x), network.store().predict(x))


def test_batch_mates_do_not_matter() -> None:
    network, x = layered().eval(), points(9)
    together = network.state_and_reach(x, x - 0.1, x + 0.1)
    for row in range(3):
        one = x[row : row + 1]
        alone = network.state_and_reach(one, one - 0.1, one + 0.1)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[row], rtol=0, atol=1e-10)
    assert [part.shape for part in network.state_and_reach(x[:0], x[:0], x[:0])] == 3 * [(0, 3)]


def test_storing_changes_nothing_of_the_module() -> None:
    network = layered().train()
    network.module[2].eval()
    modes = [layer.training for layer in network.modules()]
    before = copy.deepcopy(network.state_dict())
    network.store()
    assert [layer.training for layer in network.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


# Gradients.


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_the_loss_are_its_slopes(kappa: float, training: bool) -> None:
    """Through statistics, boxes, blocks and all layers, in every parameter."""
    network, x, labels = layered(phi=nn.Tanh).train(training), points(9), torch.arange(3)

    def loss() -> Tensor:
        return inclusion_loss(network, x, labels, 0.05, kappa).total

    loss().backward()
    parameters = list(network.parameters())
    for _ in range(3):
        rays = [torch.randn_like(parameter) for parameter in parameters]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        slope = sum(float((g * ray).sum()) for g, ray in zip(grads, rays, strict=True))
        ends = []
        for step in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                for parameter, ray in zip(parameters, rays, strict=True):
                    parameter.add_(step * ray)
                ends.append(float(loss()))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-7)


# Batch normalisation.


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_of_points_are_kept_as_torch_does(momentum: float | None) -> None:
    network, x = layered(), points(9, 5)
    norm = network.module[2]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = momentum
    plain = copy.deepcopy(network.module)
    for seed in range(3):
        batch = points(9, 5, seed)
        torch.testing.assert_close(network(batch), plain(batch))
    torch.testing.assert_close(network.state_dict(), LayeredNetwork(plain, 9).state_dict())
    torch.testing.assert_close(network.eval()(x), plain.eval()(x))


def test_boxes_are_normalised_by_their_centres() -> None:
    """So that points do not change what boxes are scaled by, and point boxes are the points."""
    network, x = layered().train(), points(9, 6)
    zlo, zhi = network.reach(x, x)
    torch.testing.assert_close(zlo, zhi)
    torch.testing.assert_close(zlo, network.state(x, network.materialise()))
    alone = network.reach(x - 0.1, x + 0.1)
    for other in (x, points(9, 6, seed=5)):
        _, *beside = network.state_and_reach(other, x - 0.1, x + 0.1)
        torch.testing.assert_close(tuple(beside), alone)
    assert bool((alone[0] <= zlo + 1e-9).all())


def test_a_search_leaves_the_statistics_and_goes_by_them() -> None:
    """Of each point by itself, as attacks on the trained network are; the mode comes back."""
    network, x = layered().train(), points(9, 6)
    network.reach(x - 0.1, x + 0.1)  # statistics that are not the initial ones
    before = copy.deepcopy(network.state_dict())
    labels, rng = torch.arange(6) % 3, np.random.default_rng(0)
    found = SignAscent(3).search(network, network.materialise(), x, labels, 0.1, rng)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(layer.training for layer in network.modules())
    network.eval()
    again = SignAscent(3).search(
        network, network.materialise(), x, labels, 0.1, np.random.default_rng(0)
    )
    assert torch.equal(found, again)


# Verdicts.


@pytest.mark.parametrize(
    "method", [Interval(), Dual(), Complete(timeout=5.0)], ids=lambda m: m.name
)
def test_no_attack_wins_on_what_is_certified(method: Method) -> None:
    network, x = layered().eval().store(), points(9, 6)
    labels = network.predict(x).argmax(1)
    verdicts = certify(network, x, labels, 0.05, method=method)
    held = [verdict.status == "certified" for verdict in verdicts]
    assert any(held)
    found = PGD(steps=20).run(network, x, labels, 0.05)
    assert not any(v and s == "broken" for v, s in zip(held, found.status, strict=True))


def test_complete_agrees_with_every_linear_region() -> None:
    """Four states, all patterns of them."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), ImplicitNetwork(2, 2, 2, tolerance=1e-11))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((16 * parameter).round() / 16)
    network = LayeredNetwork(module, 2).store()
    W, U, b = (v.numpy() for v in (network.W.dense(), network.U.dense(), network.b))
    x = (16 * points(2, 6)).round() / 16
    labels = network.predict(x).argmax(1)
    statuses = []
    for eps in (0.125, 4.0):
        for row, y in zip(x, labels, strict=True):
            margin = (network.C[y] - network.C[1 - y])[None].numpy()
            shift = (network.c[y] - network.c[1 - y])[None].numpy()
            ends = (row - eps).numpy(), (row + eps).numpy()
            ((least, _),) = exact.exact_range(W, U, b, margin, shift, *ends)
            method = Complete(timeout=10.0)
            (verdict,) = certify(network, row[None], y[None], eps, method=method)
            assert verdict.status == ("certified" if least > 0 else "falsified")
            statuses.append(verdict.status)
    assert set(statuses) == {"certified", "falsified"}


# What is refused.


REFUSED: list[tuple[list[nn.Module], str]] = [
    ([nn.Linear(3, 2), nn.MaxPool1d(2)], "must be an ImplicitNetwork or a Linear"),
    ([nn.Linear(3, 4), nn.MaxPool1d(2), nn.Linear(2, 2)], r"layer 1 \(MaxPool1d\)"),
    ([nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)], r"layer 1 \(GELU\)"),
    ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(3, 2)], "takes 3 inputs, what comes before it has 4"),
    ([nn.Linear(3, 2)], "no activation"),
    ([], "must be an ImplicitNetwork or a Linear"),
]


@pytest.mark.parametrize(("layers", "said"), REFUSED)
def test_layers_without_bounds_are_refused(layers: list[nn.Module], said: str) -> None:
    with pytest.raises(ModelError, match=said) as refused:
        LayeredNetwork(nn.Sequential(*layers), 3)
    assert "\n" not in str(refused.value)


def test_random_layers_are_refused_in_training() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    network = LayeredNetwork(module, 3)
    with pytest.raises(ModelError, match="dropout in training mode is random"):
        network(points(3))
    assert network.eval()(points(3)).shape == (3, 2)


BOXES: list[tuple[Callable[[Tensor], tuple[Tensor, Tensor]], str]] = [
    (lambda x: (x + 0.1, x - 0.1), "inverted or NaN"),
    (lambda x: (x, x * torch.nan), "inverted or NaN"),
    (lambda x: (x, x[:2]), r"got .*\(2, 9\)"),
    (lambda x: (x[:, :8], x[:, :8]), r"\(batch, 9\), got .*\(3, 8\)"),
    (lambda x: (x.float(), x.float()), "inputs are torch.float32, the network is torch.float64"),
]


@pytest.mark.parametrize(("box", "said"), BOXES)
def test_bad_boxes_are_refused(box: Callable[[Tensor], tuple[Tensor, Tensor]], said: str) -> None:
    """Before a layer can hide what is wrong with them."""
    network, x = layered(), points(9)
    with pytest.raises(InputError, match=said):
        network.reach(*box(x))
    with pytest.raises(InputError, match=said):
        network.state_and_reach(x, *box(x))
    for wrong in (x[0, 0], x[0, :8], x.float()):
        with pytest.raises(InputError):
            network(wrong)
    assert network.eval()(x[0]).shape == (3,)


# Training.


def images(inputs: int = 16) -> DataSet:
    """Two classes of images: bright above, or below."""
    rng = np.random.default_rng(3)
    y = np.arange(30) % 2
    x = rng.uniform(0, 0.4, (30, inputs))
    half = inputs // 2
    x[y == 0, :half] += 0.5
    x[y == 1, half:] += 0.5
    return DataSet("halves", x[:20], y[:20], x[20:], y[20:], domain=(0.0, 1.0))


def config(**changes: Any) -> TrainConfig:
    settings = {"front": "2x3/2, 3x2, 4", "normalisation": "batch", "hidden": 3, "epochs": 3}
    settings |= {"batch_size": 8, "learning_rate": 0.01, "threads": 1, "eps": 0.05}
    return TrainConfig(**(settings | changes))


class StopAt(Progress):
    """Interrupts a run at its first step of the second epoch."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        del step, steps, loss
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("recipe", ["inclusion", "small-box", "adversarial"])
def test_interrupted_runs_end_the_same(recipe: str, tmp_path: Path) -> None:
    """With the statistics of normalisation, and what is certified is the stored network."""
    settings = config(recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        Trainer(images(), settings, tmp_path / "stopped", progress=StopAt()).run()
    resumed = Trainer(images(), settings, tmp_path / "stopped", resume=True).run()
    straight = Trainer(images(), settings, tmp_path / "straight").run()
    for name in ("model.safetensors",):
        files = [(tmp_path / run / name).read_bytes() for run in ("stopped", "straight")]
        assert files[0] == files[1]
    assert resumed.network.digest == straight.network.digest
    last = read_lines(tmp_path / "straight" / "metrics.jsonl")[-1]
    found = evaluate(straight.network, images(), settings)
    assert (last["clean_accuracy"], last["certified_accuracy"]) == found


def test_moments_of_another_memory_format_are_those_of_their_entries(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainer(images(), config(), tmp_path, progress=StopAt()).run()
    path = tmp_path / "checkpoint.pt"
    saved = Checkpoint.load(path)
    assert saved is not None
    changed = 0
    for state in saved.optimiser["state"].values():
        for name, value in state.items():
            state[name] = value.contiguous()
            changed += state[name].stride() != value.stride()
    assert changed == 2  # of the kernel that takes several channels
    saved.save(path)
    resumed = Trainer(images(), config(), tmp_path, resume=True).run()
    assert resumed.network.digest == Trainer(images(), config()).run().network.digest


def test_the_front_is_what_the_text_says() -> None:
    network = initial_network(images(), config(front="2x4/2,3x1,5", image="1x4x4"), Raise())
    assert isinstance(network, LayeredNetwork)
    kinds = [type(layer).__name__ for layer in network.module]
    both = ["BatchNorm2d", "ReLU"]
    wanted = ["Unflatten", "Conv2d", *both, "Conv2d", *both, "Flatten"]
    assert kinds == [*wanted, "Linear", "BatchNorm1d", "ReLU", "ImplicitNetwork"]
    first = network.module[1]
    assert isinstance(first, nn.Conv2d)
    assert (first.kernel_size, first.stride, first.padding) == ((4, 4), (2, 2), (1, 1))


BAD: list[tuple[dict[str, Any], str]] = [
    *(({"front": text}, "front must be") for text in ("", "x", "4x", "4,2x3", "2x3,", "0x3", "-4")),
    *(({"front": text}, "front must be") for text in ("2x3/0", "2x0", "2*3", "2x3/2/2", "٤x3")),
    ({"front": None}, "normalisation is that of explicit layers: set front"),
    ({"front": None, "normalisation": "none", "image": "1x4x4"}, "image is for convolutions"),
    ({"front": "4", "image": "1x4x4"}, "image is for convolutions"),
    ({"weights": "row-sum"}, "front belongs to weights 'contracting', not to 'row-sum'"),
    ({"weights": "monotone"}, "front belongs to weights 'contracting', not to 'monotone'"),
    ({"recipe": "lipschitz"}, "leave front out"),
    ({"normalisation": "layer"}, "normalisation must be one of none, batch"),
]


@pytest.mark.parametrize(("changes", "said"), BAD)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        config(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"front": "2x3/2,2x3/2,2x4"}, "layer 3 of front has a kernel of 4, larger than"),
        ({"image": "1x3x4"}, "with a product of 16, the inputs of the data"),
        ({"image": "nonsense"}, "got 'nonsense'"),
    ],
)
def test_fronts_that_do_not_fit_the_data(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        Trainer(images(), config(**changes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--front", "4x"], "front must be"),
        (["--front", "2x3/9,2x2"], "larger than the image of 1 x 1"),
        (["--front", "2x3", "--image", "1x8x9"], "with a product of 64"),
        (["--normalisation", "batch"], "set front"),
        (["--front", "4", "--weights", "lben", "--kappa", "0"], "front belongs to weights"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run("train", "--data", "digits", "--epochs", "1", "--out", out, *words) == 2
    shown = capsys.readouterr().err
    assert said in " ".join(shown.split())
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()


def test_the_command_trains_a_front(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    words = ["--front", "4x3/2", "--normalisation", "batch", "--hidden", "4", "--epochs", "1"]
    sizes = ["--eps", "0.02", "--evaluate-samples", "20"]
    assert run("train", "--data", "digits", "--out", out, *words, *sizes) == 0
    model = str(tmp_path / "run" / "model.safetensors")
    proofs = ["--certificates", str(tmp_path / "c"), "--limit", "10", "--out", str(tmp_path / "v")]
    assert run("certify", model, "--data", "digits", "--eps", "0.001", *proofs) == 0
    assert run("check", str(tmp_path / "c"), "--model", model) == 0
