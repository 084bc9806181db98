"""Feed-forward networks as implicit ones, and back: exactness, structure, and what is refused."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import exact
from equicert.activations import Tanh
from equicert.attacks import FGSM, PGD
from equicert.boxes import Box
from equicert.certification import certify
from equicert.errors import ConfigError, EquicertError, InputError, ModelError, NotContractingError
from equicert.image import reach
from equicert.inspection import inspect_network
from equicert.losses import inclusion_loss
from equicert.models import load_model, save_model
from equicert.network import ImplicitNetwork
from equicert.policies import Raise, Tally
from equicert.sequential import from_sequential, to_sequential
from equicert.stored import StoredNetwork
from equicert.weights import FeedForward

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.5),
    "hard tanh": nn.Hardtanh,
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(threshold=40),  # by default torch cuts it short: see below
    "elu": lambda: nn.ELU(0.5),
}
EXACT = ("relu", "leaky", "hard tanh", "identity")  # of sums of eighths
SHAPES = [(3, 4, 2), (1, 1, 1), (2, 3, 1, 4, 2), (4, 5, 3, 2, 3)]  # inputs, layers, outputs


def plain(
    shape: tuple[int, ...], activation: str = "relu", bias: bool = True, seed: int = 0
) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for r, q in itertools.pairwise(shape):
        layers += [nn.Linear(r, q, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def in_eighths(module: nn.Sequential) -> nn.Sequential:
    """The same with parameters on a grid, so that float64 holds every sum of a few layers."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((16 * parameter).round() / 8)
    return module


def ibp(module: nn.Sequential, lo: Tensor, hi: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Interval bound propagation [G18]: the bounds behind each layer."""
    found = []
    for layer in module:
        if isinstance(layer, nn.Linear):
            centre, radius = (lo + hi) / 2, (hi - lo) / 2
            middle = centre @ layer.weight.mT + dict(layer.named_parameters()).get("bias", 0)
            spread = radius @ layer.weight.abs().mT
            lo, hi = middle - spread, middle + spread
        else:
            lo, hi = layer(lo), layer(hi)
        found.append((lo, hi))
    return found


def states(module: nn.Sequential, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds behind the activations, side by side."""
    lows, highs = zip(*ibp(module, lo, hi)[1::2], strict=True)
    return torch.cat(lows, -1), torch.cat(highs, -1)


def box(inputs: int, samples: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Boxes with ends in eighths."""
    drawn = torch.randint(-16, 17, (2, samples, inputs), generator=_generator(seed)) / 8
    return drawn.amin(0), drawn.amax(0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the same function ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_forward_and_gradients_are_those_of_the_sequential(
    shape: tuple[int, ...], activation: str, bias: bool
) -> None:
    module = plain(shape, activation, bias)
    network = from_sequential(module)
    x = torch.randn(6, shape[0], requires_grad=True)
    other = x.detach().clone().requires_grad_()
    y, expected = network(x), module(other)
    assert torch.allclose(y, expected, rtol=1e-13, atol=1e-13)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_same_gradients(network, module)
    assert other.grad is not None
    assert x.grad is not None
    assert torch.allclose(x.grad, other.grad, rtol=1e-11, atol=1e-12)


def assert_same_gradients(network: ImplicitNetwork, module: nn.Sequential) -> None:
    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    weight = network.weight
    assert isinstance(weight, FeedForward)
    first, last = weight.widths[0], weight.widths[-1]
    own: dict[str, Any] = dict(network.named_parameters())
    U, C = own["parametrizations.U.original"].grad, own["parametrizations.C.original"].grad
    found = [U[:first], *(block.grad for block in weight.blocks), C[:, -last:]]
    for gradient, layer in zip(found, linear, strict=True):
        assert layer.weight.grad is not None
        assert torch.allclose(gradient, layer.weight.grad, rtol=1e-11, atol=1e-12)
    assert not bool(U[first:].any())
    assert not bool(C[:, :-last].any())
    biases = [*own["b"].grad.split(list(weight.widths)), own["c"].grad]
    for gradient, layer in zip(biases, linear, strict=True):
        bias = dict(layer.named_parameters()).get("bias")
        if bias is not None:
            assert bias.grad is not None
            assert torch.allclose(gradient, bias.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_embedded_network_is_interval_propagation_to_the_bit(
    shape: tuple[int, ...], activation: str, bias: bool
) -> None:
    module = in_eighths(plain(shape, activation, bias))
    network = from_sequential(module)
    lo, hi = box(shape[0])
    with torch.no_grad():
        found, expected = network.reach(lo, hi), states(module, lo, hi)
        assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
        assert torch.equal(network(lo), module(lo))


@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 2**16),
    scale=st.sampled_from([1.0, 30.0, 1e-3]),
)
def test_embedded_network_is_interval_propagation(
    widths: list[int], activation: str, seed: int, scale: float
) -> None:
    module = plain((3, *widths, 2), activation, seed=seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    network = from_sequential(module, tolerance=1e-14)
    lo, hi = box(3, seed=seed)
    with torch.no_grad():
        expected = states(module, lo, hi)
        size = 1 + torch.cat(expected).abs().amax()
        for found, truth in zip(network.reach(lo, hi), expected, strict=True):
            assert torch.allclose(found, truth, rtol=1e-12, atol=1e-13 * float(size))
        proved = reach(network, Box(lo, hi))
        slack = 2e-7 + 1e-12 * size * float(proved.contraction.eta.amax())  # its tolerance
        for beyond in (expected[0] - proved.state.lo, proved.state.hi - expected[1]):
            assert bool((beyond >= -1e-13 * size).all())
            assert bool((beyond <= slack).all())


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_inclusion_loss_is_interval_training(shape: tuple[int, ...]) -> None:
    """The gradients of the robust loss agree with autograd through layer-by-layer IBP."""
    module = plain(shape)
    network = from_sequential(module)
    x, labels = torch.rand(7, shape[0]), torch.randint(shape[-1], (7,))
    loss = inclusion_loss(network, x, labels, 0.1, 1.0)
    loss.total.backward()
    lo, hi = ibp(module, x - 0.1, x + 0.1)[-2]
    readout = module[-1]
    assert isinstance(readout, nn.Linear)
    rows = readout.weight[labels][:, None] - readout.weight  # (batch, q, n)
    worst = rows.clamp(min=0) * lo[:, None] + rows.clamp(max=0) * hi[:, None]
    margins = worst.sum(-1) + readout.bias[labels][:, None] - readout.bias
    nn.functional.cross_entropy(-margins, labels).backward()
    assert loss.margins is not None
    assert torch.allclose(loss.margins, margins, rtol=1e-11, atol=1e-12)
    assert_same_gradients(network, module)


@pytest.mark.parametrize("layers", [1, 2, 5, 9, 20])
def test_a_solve_takes_as_many_steps_as_layers(layers: int) -> None:
    """One more where a repeated product is not the same to the last bit."""
    tally = Tally(Raise())
    module = plain((3, *[8] * layers, 2))
    network = from_sequential(module, tolerance=1e-14, on_unconverged=tally)
    x, labels = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)
    assert all(layers <= steps <= layers + 1 for steps in network.solve(x).steps.tolist())
    tally.reset()
    inclusion_loss(network, x, labels, 0.1, 0.5).total.backward()
    steps = tally.mean_steps()
    assert set(steps) == {"joint solve", "adjoint solve"}
    assert all(layers <= mean <= layers + 1 for mean in steps.values())


# --- its place in the library --------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_there_and_back_again(activation: str, tmp_path: Path) -> None:
    module = plain((3, 4, 2, 3), activation)
    network = from_sequential(module)
    stored = network.store()
    save_model(tmp_path / "m.safetensors", stored)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.digest == stored.digest
    back = to_sequential(loaded, (4, 2))
    for parameter, original in zip(back.parameters(), module.parameters(), strict=True):
        assert torch.equal(parameter, original)
    x = 30 * torch.randn(9, 3)
    assert torch.allclose(back(x), module(x), rtol=1e-14, atol=0)
    assert torch.allclose(loaded.predict(x), back(x), rtol=1e-12, atol=1e-9)
    assert from_sequential(back).store().digest == stored.digest


def test_softplus_is_the_function_and_not_torchs_short_cut() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Softplus(), nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    x = torch.tensor([[0.0], [19.5]])  # 20.5 there
    with torch.no_grad():
        found, rough = from_sequential(module)(x), module(x)
    assert torch.allclose(found - 1, torch.logaddexp(x + 1, torch.zeros_like(x)), rtol=1e-13)
    assert 1e-9 < float((found - rough).abs().max()) < 2.1e-9


def test_certificates_hold_against_attacks_and_the_function_itself() -> None:
    module = plain((4, 16, 12, 8, 3), bias=False, seed=5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    stored = from_sequential(module).store()
    x = torch.rand(60, 4)
    labels = module(x).argmax(1)
    certified = torch.zeros(60, dtype=torch.bool)
    for eps in (0.0, 0.01, 0.05):
        verdicts = certify(stored, x, labels, eps, domain=(0.0, 1.0))
        certified = torch.tensor([v.status == "certified" for v in verdicts])
        for attack in (FGSM(), PGD(steps=10)):
            status = attack.run(stored, x, labels, eps, (0.0, 1.0)).status
            assert not any(
                held and found == "broken" for held, found in zip(certified, status, strict=True)
            )
        noisy = (x + eps * (2 * torch.rand(200, 60, 4) - 1)).clamp(0, 1)
        assert bool((module(noisy).argmax(-1) == labels)[:, certified].all())
    assert 0 < certified.sum() < 60  # at the last radius both occur


@given(seed=st.integers(0, 2**16), activation=st.sampled_from(["relu", "hard tanh", "leaky"]))
def test_proved_outputs_contain_the_exact_range(seed: int, activation: str) -> None:
    stored = from_sequential(plain((2, 2, 1, 2), activation, seed=seed)).store()
    lo, hi = box(2, 1, seed)
    image = reach(stored, Box(lo, hi))
    arrays = (stored.W.dense(), stored.U.dense(), stored.b, stored.C, stored.c)
    truth = exact.exact_range(*arrays, lo[0], hi[0], stored.activation.spec)
    for (least, most), low, high in zip(truth, image.output.lo[0], image.output.hi[0], strict=True):
        assert float(low) <= least
        assert most <= float(high)


def test_inspection_applies() -> None:
    network = from_sequential(plain((3, 5, 4, 2)))
    found = inspect_network(network.store())
    assert found.abscissa == 0
    assert network.materialise().contraction.mu == pytest.approx(2 / 3, rel=1e-12)
    assert len(found.lipschitz) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1.0, 10.0, 1e20])
def test_deep_networks_get_a_verdict_and_a_reason(dtype: torch.dtype, gain: float) -> None:
    """Twenty layers: certified, or unknown with a reason, never an exception; always sound."""
    module = plain((3, *[10] * 20, 3), seed=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(gain)
    network = from_sequential(module.to(dtype))
    arrays = (network.weight().dense(), network.U, network.b, network.C, network.c)
    stored = StoredNetwork.from_arrays(*arrays, eta=network.weight.eta())
    x = torch.rand(4, 3)
    labels = to_sequential(stored, [10] * 20)(x).argmax(1)
    for eps in (0.0, 1e-3):
        for verdict in certify(stored, x, labels, eps):
            assert verdict.status in ("certified", "unknown")
            assert (verdict.reason == "") == (verdict.status == "certified")
    if gain == 1.0:
        assert all(v.status == "certified" for v in certify(stored, x, labels, 0.0))
    if gain == 1e20:  # eta leaves float64
        assert {v.reason for v in certify(stored, x, labels, 0.0)} == {"not contracting"}
        with pytest.raises(NotContractingError):
            network.store()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1.0, 3.0, 10.0])
def test_deep_networks_are_evaluated_to_their_end(dtype: torch.dtype, gain: float) -> None:
    """However large eta makes the allowance for rounding, no solve stops before the last layer."""
    module = plain((3, *[10] * 20, 3), bias=False, seed=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2 * gain)
    module = module.to(dtype)
    network = from_sequential(module)
    x = torch.rand(4, 3, dtype=dtype, requires_grad=True)
    y, expected = network(x), module(x)
    size = float(expected.detach().abs().amax())
    unit = 1000 * torch.finfo(dtype).eps
    assert float((y - expected).detach().abs().amax()) <= unit * size
    [found], [truth] = (torch.autograd.grad(out.sum(), [x]) for out in (y, expected))
    assert float((found - truth).abs().amax()) <= unit * float(truth.abs().amax())
    stored = network.store()
    exactly = to_sequential(stored, [10] * 20)(x.detach().double()).detach()
    error = (stored.predict(x.detach()) - exactly).abs().amax()
    assert float(error) <= 1e-12 * float(exactly.abs().amax())


def test_no_sample() -> None:
    network = from_sequential(plain((3, 4, 2)))
    assert network(torch.rand(0, 3)).shape == (0, 2)
    assert [part.shape for part in network.reach(torch.rand(0, 3), torch.rand(0, 3))] == [
        (0, 4)
    ] * 2
    assert certify(network, torch.rand(0, 3), torch.zeros(0, dtype=torch.int64), 0.1) == []


def test_what_changes_nothing_is_skipped_and_types_are_kept() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
    padded = [nn.Flatten(), nn.Identity(), *layers[:2], nn.Dropout(0.5), nn.Sequential(layers[2])]
    module = nn.Sequential(*padded, nn.Sequential(nn.Identity(), *layers[3:])).float().eval()
    network = from_sequential(module, tolerance=1e-7)
    x = torch.rand(2, 3, 4, dtype=torch.float32)
    assert network.b.dtype == torch.float32
    assert network.tolerance == 1e-7
    assert torch.allclose(network(x.flatten(1)), module(x), rtol=1e-5, atol=1e-6)
    assert [p.dtype for p in to_sequential(network.store(), (5, 4)).parameters()] == (
        [torch.float64] * 6
    )


def test_copies_are_apart_and_state_dicts_fit() -> None:
    module = plain((3, 4, 2, 3))
    network = from_sequential(module)
    twin, other = copy.deepcopy(network), from_sequential(plain((3, 4, 2, 3), seed=9))
    with torch.no_grad():
        module[0].weight.zero_()  # type: ignore[union-attr, operator]
    x = torch.rand(5, 3)
    assert torch.equal(twin(x), network(x))
    assert not torch.equal(other(x), network(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


# --- the structure under training ----------------------------------------------------------------

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("widths", [(4, 3, 2), (5,), (1, 1)], ids=str)
def test_zeros_stay_zero_whatever_the_optimiser(name: str, widths: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    weight = FeedForward(widths)
    network = ImplicitNetwork(3, weight.states, 2, weight=weight, activation=Tanh())
    optimiser = OPTIMISERS[name](network.parameters())
    x, labels = torch.rand(20, 3), torch.randint(2, (20,))
    before = network.store()
    for _ in range(8):
        optimiser.zero_grad()
        inclusion_loss(network, x, labels, 0.05, 0.5).total.backward()
        optimiser.step()
    with torch.no_grad():  # nor does anything that is written there have an effect
        for parameter in network.parametrizations.parameters():  # type: ignore[union-attr]
            parameter[parameter == 0] = 7.0
    stored = network.store()
    module = to_sequential(stored, widths)  # refuses an entry outside the blocks
    assert torch.allclose(stored.predict(x), module(x), rtol=1e-11, atol=1e-11)
    moved = before.U.dense() != stored.U.dense()
    assert bool(moved[: widths[0]].all())
    assert not bool(moved[widths[0] :].any())


def test_initial_values_are_of_each_layers_own_size() -> None:
    torch.manual_seed(0)
    weight = FeedForward((40, 9, 16))
    network = ImplicitNetwork(100, 65, 5, weight=weight, input_gain=0.5)
    largest = [
        network.U.abs().max(),
        *(b.abs().max() for b in weight.blocks),
        network.C.abs().max(),
    ]
    for found, bound in zip(largest, (0.05, 40**-0.5, 1 / 3, 0.25), strict=True):
        assert 0.9 * bound < float(found.detach()) <= bound
    assert "widths=(40, 9, 16)" in repr(weight)


def test_a_network_of_another_size_than_its_layers() -> None:
    with pytest.raises(InputError, match="the weight has 7 states, the network 8 hidden units"):
        ImplicitNetwork(3, 8, 2, weight=FeedForward((4, 3)))


# --- what is refused -----------------------------------------------------------------------------


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), *layers, nn.Linear(3, 2))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)),
        r"layer 0 \(Conv2d\) has no implicit form here; known are Linear, ReLU",
    ),
    "batch norm": (lambda: chain(nn.BatchNorm1d(3), nn.ReLU()), r"layer 1 \(BatchNorm1d\) has no"),
    "pooling": (
        lambda: chain(nn.ReLU(), nn.MaxPool1d(2)),
        r"layer 2 \(MaxPool1d\) has no implicit",
    ),
    "softmax": (
        lambda: nn.Sequential(*chain(nn.ReLU()), nn.Softmax(1)),
        r"layer 3 \(Softmax\) has no implicit form",
    ),
    "gelu": (lambda: chain(nn.GELU()), r"layer 1 \(GELU\) has no implicit form"),
    "relu6 is no hard tanh": (lambda: chain(nn.ReLU6()), r"layer 1 \(ReLU6\) has no implicit form"),
    "nested": (
        lambda: chain(nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.SiLU())),
        r"layer 2\.1 \(SiLU\) has no implicit form",
    ),
    "mixed": (
        lambda: chain(nn.ReLU(), nn.Linear(3, 3), nn.Tanh()),
        r"layer 4 \(Linear\) is reached by the activation tanh, layer 2 by relu: an implicit",
    ),
    "linear after linear": (
        lambda: chain(nn.ReLU(), nn.Linear(3, 3)),
        r"layer 3 \(Linear\) is reached by the activation identity, layer 2 by relu",
    ),
    "two slopes": (
        lambda: chain(nn.LeakyReLU(0.1), nn.Linear(3, 3), nn.LeakyReLU(0.2)),
        r"reached by the activation leaky_relu\(0\.2\), layer 2 by leaky_relu\(0\.1\)",
    ),
    "two activations": (
        lambda: chain(nn.Tanh(), nn.Tanh()),
        r"layer 2 \(Tanh\) follows another activation, tanh; keep one",
    ),
    "activation last": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
        r"the last layer must be Linear.* layer 1 \(ReLU\)",
    ),
    "activation first": (
        lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), *chain(nn.ReLU())),
        r"layer 1 \(ReLU\) comes before the first Linear",
    ),
    "one linear": (
        lambda: nn.Sequential(nn.Linear(4, 3)),
        r"layer 0 \(Linear\) is the only Linear",
    ),
    "no linear": (lambda: nn.Sequential(nn.Flatten()), r"last layer must be Linear.*\(Flatten\)"),
    "empty": (nn.Sequential, r"the last layer must be Linear.* an empty Sequential"),
    "no sequential": (lambda: nn.Linear(2, 2), r"a torch\.nn\.Sequential is needed, got Linear"),
    "dropout in training": (
        lambda: chain(nn.ReLU(), nn.Dropout()),
        r"layer 2 \(Dropout\) is random in training mode; call \.eval\(\)",
    ),
    "half a flatten": (
        lambda: chain(nn.Flatten(0), nn.ReLU()),
        r"layer 1 \(Flatten\) must flatten",
    ),
    "softplus of its own": (
        lambda: chain(nn.Softplus(beta=2)),
        r"layer 1 \(Softplus\) has beta 2 and threshold 20;",
    ),
    "softplus cut short": (lambda: chain(nn.Softplus(threshold=3)), r"and threshold 3; the"),
    "clipped elsewhere": (
        lambda: chain(nn.Hardtanh(0, 1)),
        r"layer 1 \(Hardtanh\) clips to \[0, 1\]; the one here clips to \[-1, 1\]",
    ),
    "steep leak": (
        lambda: chain(nn.LeakyReLU(1.5)),
        r"layer 1 \(LeakyReLU\) has no implicit form: leaky_relu needs negative_slope in \[0, 1\]",
    ),
    "steep elu": (lambda: chain(nn.ELU(2.0)), r"layer 1 \(ELU\) has no implicit form: elu needs"),
    "widths": (
        lambda: chain(nn.ReLU(), nn.Linear(4, 3), nn.ReLU()),
        r"layer 2 \(Linear\) takes 4 inputs, the Linear before it has 3 outputs",
    ),
    "half precision": (
        lambda: chain(nn.ReLU()).half(),
        r"layer 0 \(Linear\) has weights of type torch\.float16; convert the module with \.float",
    ),
    "two precisions": (
        lambda: nn.Sequential(nn.Linear(4, 3).float(), nn.ReLU(), nn.Linear(3, 2)),
        r"layer 2 \(Linear\) has weights of type torch\.float64, those before it torch\.float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_without_an_implicit_form_is_named(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(ModelError, match=said) as error:
        from_sequential(make())  # type: ignore[arg-type] - "no sequential" is what is tested
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers() -> None:
    module = chain(nn.ReLU())
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(EquicertError, match="NaN"):
        from_sequential(module).store()


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((4, 3), r"layers of 4, 3 states are 7, W is \(6, 6\)"),
        ((2, 4), r"W is not feed-forward with layers of 2, 4 states: its entry \(4, 2\) is"),
        ((6,), r"W is not feed-forward with layers of 6 states"),
        ((3, 1, 2), r"W is not feed-forward with layers of 3, 1, 2 states"),
    ],
)
def test_back_only_with_the_right_layers(widths: tuple[int, ...], said: str) -> None:
    stored = from_sequential(plain((3, 4, 2, 3))).store()
    with pytest.raises(ModelError, match=said):
        to_sequential(stored, widths)


@pytest.mark.parametrize("name", ["U", "C"])
def test_back_only_without_short_cuts(name: str) -> None:
    network = from_sequential(plain((3, 4, 2, 3)))
    stored = network.store()
    entries = stored.U.dense() if name == "U" else stored.C
    entries[-1, 0] = 1.0
    with pytest.raises(ModelError, match=f"{name} is not feed-forward .* beyond the"):
        to_sequential(stored, (4, 2))


@pytest.mark.parametrize("widths", [(), (0,), (3, -1), (2.0,), (True,), ("3",)], ids=str)
def test_layers_are_positive_integers(widths: Any) -> None:
    with pytest.raises(ConfigError, match="integer widths >= 1"):
        FeedForward(widths)
