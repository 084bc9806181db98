"""Model files: what comes back is what was stored, to the bit, or an error that names the file."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from equicert.errors import ModelError, NotContractingError, OutputError
from equicert.models import load_model, model_metadata, save_model
from equicert.operators import Dense
from equicert.stored import StoredNetwork
from networks import (
    ACTIVATIONS,
    CONTRACTING,
    NOT_CONTRACTING,
    Network,
    arrays,
    contracting_networks,
)

Arrays = dict[str, Any]
drawn_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(network: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(
        *network.arrays, activation=network.activation, eta=network.eta
    )


def toy() -> Arrays:
    """Three states, two inputs, two outputs."""
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 3), "U": (3, 2), "b": (3,), "C": (2, 3), "c": (2,)}
    return {name: rng.normal(size=shape) / 4 for name, shape in shapes.items()}


def toy_network(**options: Any) -> StoredNetwork:
    return StoredNetwork.from_arrays(**toy(), **options)


def tensors(network: StoredNetwork) -> dict[str, bytes]:
    """The bytes of every tensor."""
    named = {"W": network.W.dense(), "U": network.U.dense()}
    named |= {"b": network.b, "C": network.C, "c": network.c}
    if network.eta is not None:
        named["eta"] = network.eta
    return {name: tensor.numpy().tobytes() for name, tensor in named.items()}


def refusal(path: Path, activation: str | None = None) -> str:
    with pytest.raises(ModelError) as error:
        load_model(path, activation)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- safetensors: there and back -----------------------------------------------------------------


@drawn_files
@given(network=contracting_networks(max_states=4, max_inputs=3))
def test_round_trip(network: Network, tmp_path: Path) -> None:
    before = stored(network)
    save_model(tmp_path / "model.safetensors", before, {"seed": "7"})
    after = load_model(str(tmp_path / "model.safetensors"))
    assert tensors(after) == tensors(before)
    assert (after.activation, after.digest) == (before.activation, before.digest)


@pytest.mark.parametrize("name", [*CONTRACTING, *NOT_CONTRACTING])
def test_round_trip_of_awkward_networks(name: str, tmp_path: Path) -> None:
    """Contracting or not, with an eta that serves or none: loading does not decide."""
    before = stored((CONTRACTING | NOT_CONTRACTING)[name])
    save_model(tmp_path / "model.safetensors", before)
    assert tensors(load_model(tmp_path / "model.safetensors")) == tensors(before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_comes_back(activation: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", toy_network(activation=activation))
    assert load_model(tmp_path / "m.safetensors").activation.spec == activation
    assert load_model(tmp_path / "m.safetensors", activation).activation.spec == activation


@drawn_files
@given(values=arrays((3, 3), 1e39))
def test_single_precision_is_used_where_it_is_exact(values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    rounded = np.where(np.isfinite(single), single, 0).astype(np.float64)
    for W in (values, rounded):
        changed: Arrays = toy() | {"W": W}
        before = StoredNetwork.from_arrays(**changed)
        save_model(path, before)
        assert tensors(load_model(path)) == tensors(before)
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("W").dtype == np.float32
        assert file.get_tensor("U").dtype == np.float64


def test_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    network = toy_network(activation="elu(0.5)")
    save_model(path, network, {"recipe": "inclusion", "notes": 'Größe "ε"\n'})
    assert model_metadata(path) == {
        "format": "equicert-1",
        "structure": "dense",
        "activation": "elu(0.5)",
        "digest": network.digest,
        "recipe": "inclusion",
        "notes": 'Größe "ε"\n',
    }


def test_same_network_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key {k}": str(k) for k in range(9)}
    files = set()
    for order in (list(metadata), list(reversed(metadata)), list(metadata)):
        save_model(tmp_path / "m.safetensors", toy_network(), {key: metadata[key] for key in order})
        files.add((tmp_path / "m.safetensors").read_bytes())
    assert len(files) == 1
    assert set(load(files.pop())) == {"W", "U", "b", "C", "c"}  # other readers agree


def test_loaded_weights_outlive_the_file(tmp_path: Path) -> None:
    for path in (tmp_path / "m.safetensors", tmp_path / "m.npz"):
        if path.suffix == ".npz":
            np.savez(path, **toy(), activation="relu")
        else:
            save_model(path, toy_network())
        network = load_model(path)
        path.write_bytes(bytes(path.stat().st_size))
        assert tensors(network) == tensors(toy_network())


def test_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, toy_network())
    before = path.read_bytes()
    with pytest.raises(ModelError, match="belongs to the format"):
        save_model(path, toy_network(), {"digest": "mine"})
    with pytest.raises(ModelError, match="metadata are text, got 'epochs': 3"):
        save_model(path, toy_network(), {"epochs": 3})  # pyright: ignore[reportArgumentType]
    kept = {"structure": "banded", "map": lambda self, fn: banded(fn(self.A))}
    banded = type("Banded", (Dense,), kept)
    W = banded(torch.zeros(3, 3))
    other = StoredNetwork(
        W, *(getattr(toy_network(), k) for k in ("U", "b", "C", "c", "activation"))
    )
    with pytest.raises(ModelError, match="W has the structure 'banded'"):
        save_model(path, other)
    assert path.read_bytes() == before
    with pytest.raises(ModelError, match=r"model\.npz.*safetensors"):
        save_model(tmp_path / "model.npz", toy_network())
    with pytest.raises(OutputError, match=r"missing"):
        save_model(tmp_path / "missing" / "m.safetensors", toy_network())
    assert sorted(tmp_path.iterdir()) == [path]


# --- damage and tampering ------------------------------------------------------------------------


@drawn_files
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_changes_no_weight(where: float, flip: int, tmp_path: Path) -> None:
    network = toy_network()
    path = tmp_path / "m.safetensors"
    save_model(path, network, {"note": "x" * 40})
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= flip
    path.write_bytes(data)
    try:
        assert tensors(load_model(path)) == tensors(network)
    except ModelError:
        refusal(path)


def test_tampering_names_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    network = toy_network()
    save_model(path, network)
    other = toy() | {"b": toy()["b"] + 2.0**-40}
    path.write_bytes(save(other, model_metadata(path)))
    message = refusal(path)
    assert network.digest in message
    assert StoredNetwork.from_arrays(**other).digest in message
    # another activation for the same weights is another network
    path.write_bytes(save(toy(), model_metadata(path) | {"activation": "tanh"}))
    assert network.digest in refusal(path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.npz"])
def test_truncated_and_garbage(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "m.npz":
        np.savez(path, **toy(), activation="relu")
    else:
        save_model(path, toy_network())
    whole = path.read_bytes()
    for size in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        assert "cannot be read" in refusal(path)
    for garbage in (b"garbage" * 100, b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60, b"\0" * 64):
        path.write_bytes(garbage)
        assert "cannot be read" in refusal(path)


def header_of(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def npz_member(shape: str) -> bytes:
    """An npz whose W claims a shape that is not there."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in toy().items() if key != "W"})
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("W.npy", member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("header of 2^40 bytes.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
        ("header of 2^63 bytes.safetensors", (2**63).to_bytes(8, "little") + b"{}"),
        (
            "tensor of 2^80 entries.safetensors",
            header_of({"W": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}),
        ),
        (
            "offsets beyond the file.safetensors",
            header_of({"W": {"dtype": "F64", "shape": [2**30], "data_offsets": [0, 2**33]}}),
        ),
        ("array of 2^80 entries.npz", npz_member(f"({2**40}, {2**40})")),
        ("array of 2^45 entries.npz", npz_member(f"({2**45},)")),
        ("array with a negative side.npz", npz_member("(-3, 3)")),
        ("header that is no header.npz", npz_member("(__import__('os').getpid(),)")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_absurd_sizes(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / name, "relu")


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path, trace = tmp_path / "m.npz", tmp_path / "trace"
    payload: Any = np.array([Payload(trace)], dtype=object)
    np.savez(path, **(toy() | {"activation": payload}))
    assert "Object arrays cannot be loaded" in refusal(path)
    assert not trace.exists()


# --- npz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_npz_is_taken_exactly(dtype: str, tmp_path: Path) -> None:
    held = {key: value.astype(dtype) for key, value in toy().items()}
    held["W"] = np.asfortranarray(held["W"])
    np.savez(tmp_path / "m.npz", **held, eta=np.ones(3, dtype))
    network = load_model(tmp_path / "m.npz", "tanh")
    expected = {key: value.astype("<f8").tobytes() for key, value in held.items()}
    assert tensors(network) == expected | {"eta": np.ones(3).tobytes()}
    np.savez_compressed(tmp_path / "m.NPZ.npz", **held)
    assert load_model(tmp_path / "m.NPZ.npz", "tanh").digest == network.digest


def test_npz_activation(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **toy())
    assert "--activation" in refusal(path)
    assert model_metadata(path) == {}
    assert load_model(path, "hard-tanh").activation.spec == "hard_tanh"
    np.savez(path, **toy(), activation="leaky_relu(0.1)")
    assert load_model(path).activation.spec == "leaky_relu(0.1)"
    assert load_model(path, "LeakyReLU(0.1)").activation.spec == "leaky_relu(0.1)"
    assert model_metadata(path) == {"activation": "leaky_relu(0.1)"}
    message = refusal(path, "leaky_relu(0.2)")
    assert "leaky_relu(0.1)" in message
    assert "leaky_relu(0.2)" in message
    with pytest.raises(ModelError, match="unknown activation 'rleu'; did you mean 'relu'"):
        load_model(path, "rleu")


# --- faults, each by its name ---------------------------------------------------------------------

METADATA = {"format": "equicert-1", "structure": "dense", "activation": "relu", "digest": "0"}
NPZ_ONLY = {"complex", "text", "unknown word", "two activations", "a number for an activation"}
CHANGES: dict[str, tuple[Arrays, str]] = {
    "W not square": ({"W": np.zeros((3, 2))}, "W must have shape (3, 3)"),
    "W flat": ({"W": np.zeros(9)}, "W must have 2 dimensions"),
    "U short": ({"U": np.zeros((2, 2))}, "U must have shape (3, 'r')"),
    "b column": ({"b": np.zeros((3, 1))}, "b must have 1 dimensions"),
    "b long": ({"b": np.zeros(4)}, "b must have shape (3,)"),
    "C transposed": ({"C": np.zeros((3, 2))}, "C must have shape (3, 3)"),
    "c long": ({"c": np.zeros(3)}, "c must have shape (2,)"),
    "eta long": ({"eta": np.ones(4)}, "eta must have shape (3,)"),
    "no states": (
        {"W": np.zeros((0, 0)), "U": np.zeros((0, 2)), "b": np.zeros(0), "C": np.zeros((2, 0))},
        "n=0",
    ),
    "no inputs": ({"U": np.zeros((3, 0))}, "r=0"),
    "half": ({"U": np.zeros((3, 2), np.float16)}, "U has dtype"),
    "integers": ({"W": np.zeros((3, 3), np.int64)}, "W has dtype"),
    "booleans": ({"b": np.zeros(3, bool)}, "b has dtype"),
    "complex": ({"C": np.zeros((2, 3), complex)}, "C has dtype"),
    "text": ({"c": np.array(["a", "b"])}, "c has dtype"),
    "NaN": ({"W": np.full((3, 3), np.nan)}, "W has a NaN or infinite entry at (0, 0)"),
    "infinity": ({"c": np.array([0, -np.inf])}, "c has a NaN or infinite entry at (1,)"),
    "NaN eta": ({"eta": np.array([1, np.nan, 1])}, "eta has a NaN or infinite entry"),
    "unknown key": ({"Wx": np.zeros(1)}, "unknown tensor 'Wx'; did you mean 'W'?"),
    "unknown word": ({"activaton": "relu"}, "did you mean 'activation'?"),
    "SiLU": ({"activation": "SiLU"}, "'SiLU' is not monotone and non-expansive"),
    "GELU": ({"activation": "gelu"}, "'gelu' is not monotone and non-expansive"),
    "steep": ({"activation": "elu(1.5)"}, "alpha in [0, 1], got 1.5"),
    "unknown activation": ({"activation": "rellu"}, "did you mean 'relu'?"),
    "two activations": ({"activation": ["relu", "relu"]}, "activation must be one string"),
    "a number for an activation": ({"activation": 3}, "activation must be one string"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_bad_npz(case: str, tmp_path: Path) -> None:
    change, message = CHANGES[case]
    held: Arrays = {"activation": "relu"} | toy() | change
    np.savez(tmp_path / "m.npz", **held)
    assert message in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize("case", sorted(CHANGES.keys() - NPZ_ONLY))
def test_bad_safetensors(case: str, tmp_path: Path) -> None:
    """The same faults, beside metadata as `save_model` writes them."""
    change, message = CHANGES[case]
    held = toy() | change
    metadata = METADATA | {"activation": held.pop("activation", "relu")}
    (tmp_path / "m.safetensors").write_bytes(save(held, metadata))
    assert message in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pt"}, "format 'pt', where 'equicert-1' is known"),
        ({"format": None}, "format None"),
        ({"structure": "convolution"}, "structure 'convolution' is not known"),
        ({"structure": None}, "lack structure"),
        ({"activation": None}, "lack activation"),
        ({"digest": None}, "lack digest"),
        ({"digest": ""}, "give the digest"),
    ],
    ids=str,
)
def test_bad_metadata(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    metadata = {key: value for key, value in (METADATA | change).items() if value is not None}
    (tmp_path / "m.safetensors").write_bytes(save(toy(), metadata))
    assert message in refusal(tmp_path / "m.safetensors")


def test_no_metadata_at_all(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(save(toy()))
    assert "format None" in refusal(tmp_path / "m.safetensors", "relu")
    with pytest.raises(ModelError, match="format None"):
        model_metadata(tmp_path / "m.safetensors")


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
@pytest.mark.parametrize("key", list(toy()))
def test_missing_tensor(key: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    held = {name: value for name, value in toy().items() if name != key}
    if ending == "npz":
        np.savez(path, **held)
    else:
        path.write_bytes(save(held, METADATA))
    assert f"lacks {key} (it holds" in refusal(path, "relu")


def test_no_such_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "m.safetensors")
    assert "does not exist" in refusal(tmp_path / "missing" / "m.npz")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "run.npz").mkdir()
    assert "is a folder" in refusal(tmp_path / "run.npz")
    assert "cannot be read" in refusal(tmp_path / ("long" * 100 + ".npz"))
    for name in ("model.onnx", "model", "model.safetensor"):
        (tmp_path / name).touch()
        assert "unknown ending" in refusal(tmp_path / name)
    assert "did you mean '.safetensors'" in refusal(tmp_path / "model.safetensor")


# --- a network that this project did not train ---------------------------------------------------


def test_network_trained_elsewhere(problems_dir: Path) -> None:
    """Monotone, not inf-contracting: it loads, and refuses only where that is needed."""
    path = problems_dir / "networks" / "mondeq_mnist_fc40.npz"
    network = load_model(path)
    assert (network.states, network.inputs, network.outputs) == (40, 784, 10)
    assert network.activation.spec == "relu"
    with np.load(path) as held:
        assert tensors(network) == {key: held[key].tobytes() for key in toy()}
    with pytest.raises(NotContractingError):
        _ = network.contraction
    assert "relu" in refusal(path, "tanh")
