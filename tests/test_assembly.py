"""Sequentials of many layers as one stored network: the same function, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from architectures import EVERY, architectures
from equicert import write_certificates
from equicert.assembly import assemble
from equicert.bounds import Interval
from equicert.checker import check_folder
from equicert.contraction import prove_contraction
from equicert.errors import ModelError
from equicert.layered import LayeredNetwork
from equicert.models import load_model, model_metadata, save_model
from equicert.network import ImplicitNetwork
from equicert.operators import Blocks, Convolution, Dense, Geometry, Image, Margins
from equicert.sequential import from_sequential
from equicert.stored import StoredNetwork
from equicert.weights import Convolutional, ConvolutionalInput

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
SMALL = nn.Unflatten(1, (1, 4, 4))


def points(inputs: int, samples: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(samples, inputs, generator=generator, dtype=torch.float64) - 1


def outputs(network: StoredNetwork, x: Tensor) -> Tensor:
    return network.predict(x, 1e-11)


def assert_same(network: StoredNetwork, module: nn.Module, inputs: int) -> None:
    x = points(inputs)
    torch.testing.assert_close(outputs(network, x), module(x), rtol=1e-9, atol=1e-9)


def classifier(seed: int = 0) -> nn.Sequential:
    """One of each kind of layer, in evaluation mode."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        *(SMALL, nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), ImplicitNetwork(8, 5, 4, tolerance=1e-11), nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)),
    )
    module(points(16, 20))  # statistics
    return module.eval()


# The same function.


@settings(max_examples=30)
@given(made=architectures(EVERY))
def test_outputs_are_those_of_the_module(made: tuple[nn.Sequential, int]) -> None:
    module, inputs = made
    network = assemble(module, inputs)
    assert_same(network, module, inputs)
    # Whatever the weights are, eta comes with them: nothing had to be searched for.
    assert network.eta is not None
    assert torch.equal(network.contraction.eta, network.eta)


def numbers(network: StoredNetwork) -> list[Tensor]:
    """All that is stored but the hint eta."""
    held = [*network.W.tensors().values(), *network.U.tensors().values()]
    return [*held, network.b, network.C, network.c]


def test_float32_weights_are_taken_as_they_are() -> None:
    torch.manual_seed(0)
    layers = [SMALL, nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(3, 2)).float()
    network = assemble(module, 16)
    for one, other in zip(numbers(network), numbers(assemble(module.double(), 16)), strict=True):
        assert torch.equal(one, other)
    assert_same(network, module, 16)


def test_what_is_folded_of_float32_weights_is_of_float32() -> None:
    module = classifier().float()
    network, again = assemble(module, 16), assemble(module.double(), 16)
    differ = False
    for one, other in zip(numbers(network), numbers(again), strict=True):
        assert one.dtype == torch.float64
        assert torch.equal(one.float().double(), one)
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0)
        differ |= not torch.equal(one, other)
    assert differ
    found, expected = outputs(network, points(16)), outputs(again, points(16))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_float32_cannot_hold_is_left() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    module = nn.Sequential(SMALL, nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.Flatten())
    module.append(nn.Linear(8, 2)).eval()
    with torch.no_grad():
        norm.weight.fill_(1e38)
        norm.get_buffer("running_var").fill_(0.0)
    network = assemble(module.float(), 16)
    assert all(bool(t.isfinite().all()) for t in numbers(network))
    assert any(float(t.abs().amax()) > 3.5e38 for t in numbers(network))


def conv(inner: int, out: int, size: int, stride: int = 1, **more: object) -> nn.Conv2d:
    return nn.Conv2d(inner, out, size, stride, **more)  # type: ignore[arg-type]


ROWS = {  # layers between the image, 1 x 4 x 4, and the activation; do they make a convolution?
    "one": ([conv(1, 2, 3, padding=1)], True),
    "even, same": ([conv(1, 2, 2, padding="same")], True),
    "circular": ([conv(1, 2, 3, padding=1, padding_mode="circular")], True),
    "two sizes of padding": ([conv(1, 1, 3, padding=(0, 1))], True),
    "valid twice": ([conv(1, 2, 2, padding=1), conv(2, 1, 2)], True),
    "stride, then stride": ([conv(1, 2, 2, 2, bias=False), conv(2, 1, 2, 2)], True),
    "bias, then padding": ([conv(1, 2, 1), conv(2, 1, 3, padding=1)], False),
    "padding twice": ([conv(1, 1, 3, padding=1, bias=False)] * 2, False),
    "circular, then none": ([conv(1, 1, 3, padding=1, padding_mode="circular")] * 2, False),
    "circular, then valid": (
        [conv(1, 1, 3, padding=1, padding_mode="circular"), conv(1, 1, 2)],
        False,
    ),
    "pool": ([nn.AvgPool2d(2)], True),
    "pool with a remainder": ([nn.AvgPool2d(3)], True),
    "pools that overlap": ([nn.AvgPool2d(2, 1)], True),
    "pools apart": ([nn.AvgPool2d(1, 2)], True),
    "pool, then padding": ([nn.AvgPool2d(2), conv(1, 1, 3, padding=1)], True),
    "pool with a remainder, then padding": ([nn.AvgPool2d(3), conv(1, 1, 3, padding=1)], False),
    "overlapping pools, then padding": ([nn.AvgPool2d(2, 1), conv(1, 1, 2, padding=1)], False),
    "convolution, pool": ([conv(1, 2, 3, padding=1), nn.AvgPool2d(2)], True),
    "convolution, pool, padding": (
        [conv(1, 1, 1, bias=False), nn.AvgPool2d(2), conv(1, 1, 3, padding=1)],
        True,
    ),
    "normalised": ([conv(1, 2, 3, padding=1), nn.BatchNorm2d(2)], True),
    "normalised before": ([nn.BatchNorm2d(1), conv(1, 1, 3, padding=1)], False),
    "another shape": ([conv(1, 2, 1), nn.Flatten(), nn.Unflatten(1, (1, 8, 4)), conv(1, 1, 2)], 0),
    "a matrix behind": ([conv(1, 1, 2), nn.Flatten(), nn.Linear(9, 3, bias=False)], False),
}


@pytest.mark.parametrize(("layers", "folds"), ROWS.values(), ids=list(ROWS))
def test_affine_layers_in_a_row_are_multiplied_out(layers: list[nn.Module], folds: bool) -> None:
    """As a convolution where that is what they are; at borders and with biases it mostly is not."""
    torch.manual_seed(1)
    module = nn.Sequential(SMALL, *layers, nn.Flatten(), nn.ReLU())
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                module.train()(points(16))
                layer.weight.copy_(-1 - torch.rand(len(layer.weight)))
        width = module.eval()(points(16)).shape[1]
    module.append(nn.Linear(width, 2)).eval()
    network = assemble(module, 16)
    assert_same(network, module, 16)
    assert isinstance(network.U, Convolution if folds else Dense)


def test_what_stands_alone_is_taken_exactly() -> None:
    convolution, linear = conv(1, 2, 3), nn.Linear(3, 3)
    module = nn.Sequential(SMALL, convolution, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU())
    module.append(linear)
    network = assemble(module, 16)
    assert isinstance(network.W, Blocks)
    assert isinstance(network.U, Blocks)
    held, matrix = network.U.blocks[0].A, module[4]
    assert isinstance(held, Convolution)
    assert isinstance(matrix, nn.Linear)
    assert torch.equal(held.kernel, convolution.weight)
    assert torch.equal(network.W.blocks[0].A.dense(), matrix.weight)
    assert torch.equal(network.C[:, -3:], linear.weight)
    assert not network.C[:, :-3].any()
    assert torch.equal(network.c, linear.bias)


def test_convolutional_blocks_keep_their_structure() -> None:
    into = ConvolutionalInput((2, 1, 3, 3), Geometry(Image(1, 4, 4), Margins.same(3, 3)))
    block = ImplicitNetwork(
        *(16, 32, 3), weight=Convolutional(Image(2, 4, 4), 3), input_map=into, tolerance=1e-11
    )
    first = nn.Sequential(SMALL, conv(1, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), block)
    network = assemble(first, 16)
    assert isinstance(network.W, Blocks)
    kinds = {place[:2]: type(place.A) for place in network.W.blocks}
    assert kinds == {(16, 0): Convolution, (16, 16): Convolution}
    assert_same(network, first, 16)
    assert_same(assemble(nn.Sequential(block), 16), block, 16)
    twice = nn.Sequential(*first, nn.Linear(3, 2), ImplicitNetwork(2, 3, 2, tolerance=1e-11))
    assert_same(assemble(twice, 16), twice, 16)


def test_dead_layers_leave_a_hint_that_serves() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), ImplicitNetwork(2, 3, 2, tolerance=1e-11))
    block = module[2]
    assert isinstance(block, ImplicitNetwork)
    with torch.no_grad():
        block.U.zero_()
    network = assemble(module, 2)
    assert network.eta is not None
    assert bool((network.eta > 0).all())
    assert torch.equal(prove_contraction(network.W, network.eta).eta, network.eta)


# Files, gradients, certificates.


def test_files_give_the_same_network_back(tmp_path: Path) -> None:
    network = assemble(classifier(), 16)
    save_model(tmp_path / "m.safetensors", network)
    again = load_model(tmp_path / "m.safetensors")
    assert again.digest == network.digest
    assert again.W.structure == network.W.structure
    assert torch.equal(outputs(again, points(16)), outputs(network, points(16)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks 41x41", "blocks 42x43"),
        ("[32+0 dense]", "[33+0 dense]"),
        ("[32+0 dense]", "[32+0 dens]"),
        ("[32+0 dense] ", ""),
        ("[32+0 dense]", "[032+0 dense]"),
        ("[32+32 dense]", "[32+31 dense]"),
        ("[32+32 dense]", "[32+32 blocks 5x5 [0+0 dense]]"),
        ("blocks 41x41", "blocks"),
    ],
)
def test_damaged_structures_are_refused(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, assemble(classifier(), 16))
    text, arrays = model_metadata(path), load_file(path)
    assert old in text["structure"]
    text["structure"] = text["structure"].replace(old, new, 1)
    save_file(arrays, path, text)
    with pytest.raises(ModelError, match=r"m\.safetensors") as refused:
        load_model(path)
    assert "\n" not in str(refused.value)


def test_modules_of_stored_networks_give_the_gradients_in_x() -> None:
    module, x = classifier(), points(16).requires_grad_()
    held = ImplicitNetwork.from_stored(assemble(module, 16), tolerance=1e-11)
    weights = points(3, seed=2)
    for y in (held(x), module(x)):
        torch.testing.assert_close(y, module(x), rtol=1e-9, atol=1e-9)
    found, wanted = (torch.autograd.grad((f(x) * weights).sum(), x)[0] for f in (held, module))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_the_checker_finds_their_certificates_valid(tmp_path: Path) -> None:
    network, x = assemble(classifier(), 16), points(16, 8)
    labels = outputs(network, x).argmax(1)
    found = write_certificates(tmp_path / "proofs", network, x, labels, 0.01, method=Interval())
    save_model(tmp_path / "model.safetensors", network)
    report = check_folder(tmp_path / "proofs", tmp_path / "model.safetensors")
    statuses = [line["status"] for line in found.lines]
    assert report.certified == statuses.count("certified") > 0


# What is refused, each by one line that names the layer.


def statistics_off() -> nn.BatchNorm1d:
    return nn.BatchNorm1d(3, track_running_stats=False).eval()


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def replaced(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: 2 * x
    return layer


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(3, 4), "weight", 0.5)


class Doubled(nn.Sequential):
    """One that is more than its layers."""


REFUSED = [
    ([hooked(nn.Linear(3, 4))], r"layer 0 \(Linear\) has a hook or a forward of its own"),
    ([replaced(nn.Linear(3, 4))], r"layer 0 \(Linear\) has a hook or a forward of its own"),
    ([pruned()], r"layer 0 \(Linear\) has a hook .* prune\.remove"),
    ([hooked(nn.Sequential(nn.Linear(3, 4)))], r"layer 0 \(Sequential\) has a hook"),
    ([nn.Sequential(hooked(nn.Linear(3, 4)))], r"layer 0\.0 \(Linear\) has a hook"),
    ([Doubled(nn.Linear(3, 4))], r"layer 0 \(Doubled\) has no implicit form"),
    ([nn.LazyLinear(4)], r"layer 0 \(LazyLinear\) has no weights yet: call the module once"),
    ([nn.Linear(3, 4, device="meta")], r"layer 0 \(Linear\) has no weights yet"),
    ([nn.Linear(3, 4).half()], r"layer 0 \(Linear\) has weights of type torch.float16"),
    ([nn.Linear(3, 4, dtype=torch.complex64)], r"layer 0 \(Linear\) has weights of type torch.com"),
    ([nn.Linear(3, 4).float(), nn.ReLU(), nn.Linear(4, 2)], "those before it torch.float32"),
    ([nn.Linear(3, 4), nn.MaxPool2d(2), nn.Linear(4, 2)], r"layer 1 \(MaxPool2d\) .* AvgPool2d"),
    ([nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)], r"layer 1 \(Softmax\) has no implicit"),
    ([nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)], r"layer 1 \(GELU\) has no implicit form"),
    ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2)], r"layer 2 \(Linear\) takes 5 inputs.* has 4"),
    ([nn.Linear(4, 2)], r"layer 0 \(Linear\) takes 4 inputs, what comes before it has 3"),
    ([nn.Linear(3, 2)], r"layer 0 \(Linear\) comes after no activation"),
    ([nn.Linear(3, 2), nn.ReLU()], r"layer 1 \(ReLU\) ends the module"),
    ([nn.ReLU(), nn.Linear(3, 2)], r"layer 0 \(ReLU\) acts on what nothing was done to"),
    ([], "an empty Sequential"),
    ([nn.Linear(3, 3), nn.BatchNorm1d(3)], r"layer 1 \(BatchNorm1d\) is in training mode"),
    ([nn.Linear(3, 3), statistics_off()], "keeps no running statistics"),
    ([nn.BatchNorm1d(4).eval()], r"layer 0 \(BatchNorm1d\) has 4 features, 3 come before it"),
    ([nn.BatchNorm2d(3).eval()], r"layer 0 \(BatchNorm2d\) does not normalise the rows here"),
    ([nn.Dropout(0.5)], r"layer 0 \(Dropout\) is random in training mode"),
    ([nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh()], "acts by tanh, layer 1 by relu"),
    ([nn.Conv2d(1, 1, 1)], r"layer 0 \(Conv2d\) reads images, and rows come before it"),
    ([nn.Unflatten(1, (1, 2, 2))], r"layer 0 \(Unflatten\) must make images of samples of 3"),
    ([ImplicitNetwork(4, 2, 2)], r"layer 0 \(ImplicitNetwork\) takes 4 inputs"),
    ([nn.Sequential(nn.Linear(3, 4), nn.PReLU())], r"layer 0\.1 \(PReLU\)"),
]
OF_IMAGES = [
    ([conv(2, 1, 3)], r"layer 1 \(Conv2d\) does not fit: a kernel over an image of 1 channels"),
    ([conv(1, 1, 5)], r"layer 1 \(Conv2d\) .* kernel of 5 x 5 is larger than the image of 4 x 4"),
    ([conv(1, 1, 5, padding=2, padding_mode="circular")], "larger than the image of 4 x 4 that"),
    ([conv(1, 1, 3, padding=1, padding_mode="reflect")], "pads by 'reflect'"),
    ([nn.Conv2d(1, 1, 3, (1, 2))], "has groups, dilation or strides that differ"),
    ([conv(1, 1, 2, dilation=2)], "has groups, dilation or strides that differ"),
    ([nn.AvgPool2d(5)], r"layer 1 \(AvgPool2d\) .* larger than the image"),
    ([nn.AvgPool2d((1, 2))], "must be square"),
    ([nn.AvgPool2d(2, padding=1)], "without padding"),
    ([nn.AvgPool2d(3, ceil_mode=True)], "ceil_mode"),
    ([nn.BatchNorm1d(1).eval()], "does not normalise the images here"),
    ([nn.Linear(4, 2)], r"layer 1 \(Linear\) reads rows, and images come before it"),
    ([ImplicitNetwork(16, 2, 2)], r"layer 1 \(ImplicitNetwork\) reads rows"),
    ([nn.Flatten(2)], r"layer 1 \(Flatten\) must flatten whole samples"),
]


@pytest.mark.parametrize(
    ("layers", "inputs", "said"),
    [(layers, 3, said) for layers, said in REFUSED]
    + [([SMALL, *layers], 16, said) for layers, said in OF_IMAGES],
)
def test_refused_by_name(layers: list[nn.Module], inputs: int, said: str) -> None:
    with pytest.raises(ModelError, match=said) as refused:
        assemble(nn.Sequential(*layers), inputs)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (hooked(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), "the Sequential has"),
        (Doubled(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "Sequential is needed, got Doubled"),
        (nn.Linear(3, 2), "Sequential is needed, got Linear"),
    ],
)
def test_what_is_more_or_less_than_its_layers_is_refused(module: nn.Module, said: str) -> None:
    for make in (assemble, LayeredNetwork, lambda module, _: from_sequential(module)):
        with pytest.raises(ModelError, match=said):
            make(module, 3)  # pyright: ignore[reportArgumentType] - the point of it


def test_a_hook_that_comes_later_is_seen() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = LayeredNetwork(layers, 3)
    hooked(layers[0])
    with pytest.raises(ModelError, match=r"layer 0 \(Linear\) has a hook"):
        network.store()


def test_a_block_that_was_put_together_is_refused() -> None:
    held = ImplicitNetwork.from_stored(assemble(classifier(), 16))
    with pytest.raises(ModelError, match=r"layer 2 \(ImplicitNetwork\) was put together"):
        assemble(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), held), 3)


def test_matrices_beyond_memory_are_refused() -> None:
    width = 2**12 + 1
    layers = [nn.BatchNorm1d(width).eval(), nn.ReLU(), nn.Linear(width, 2)]
    wide = nn.Linear(2, width, bias=False)
    assert assemble(nn.Sequential(wide, *layers), 2).states == width  # it is scaled, row by row
    with pytest.raises(ModelError, match=r"layer 0 .*multiply out to a matrix of 16785409 entries"):
        assemble(nn.Sequential(*layers), width)
