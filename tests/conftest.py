"""What every test shares: float64, few threads, hypothesis profiles, outside data if any."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

import studies
from equicert.data import DataSet, load_data
from equicert.models import load_model
from equicert.stored import StoredNetwork

torch.set_default_dtype(torch.float64)  # tables of cases are built at import, before any fixture
torch.set_num_threads(1)  # tests are small; more threads wait for one another

hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def float64_by_default() -> Iterator[None]:
    """Start every test in float64, whatever the one before it left behind."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Return the folder with the four MNIST files."""
    return _outside_folder("EQUICERT_DATA_DIR", "mnist")


@pytest.fixture(scope="session")
def mnist_test(mnist_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the test split of MNIST: points (10000, 784) and labels."""
    data = load_data("mnist", mnist_dir.parent)
    return torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)


@pytest.fixture(scope="session")
def problems_dir() -> Path:
    """Return the folder with `networks/` and `vnncomp/`."""
    return _outside_folder("EQUICERT_PROBLEMS_DIR", ".")


@pytest.fixture(scope="session")
def foreign(problems_dir: Path) -> StoredNetwork:
    """Return a monotone network that this project did not train."""
    return load_model(problems_dir / "networks" / "mondeq_mnist_fc40.npz")


@pytest.fixture(scope="module", name="blobs")
def small_data() -> DataSet:
    """Return three classes on the unit square."""
    return studies.blobs()


def _outside_folder(variable: str, name: str) -> Path:
    """Return folder `name` below $`variable`; skip where that is unset, fail where it is wrong."""
    root = os.environ.get(variable)
    if not root:
        pytest.skip(f"outside data: set {variable} to the folder that holds it")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.fail(f"{variable} = {root}, but there is no folder {folder}")
    return folder
