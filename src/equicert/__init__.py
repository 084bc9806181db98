"""equicert: training and certifying implicit (equilibrium) neural networks.

The names below are imported on first use, so that `import equicert` is instant and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equicert.activations import parse_activation as parse_activation
    from equicert.boxes import Box as Box
    from equicert.certification import certify as certify
    from equicert.data import load_data as load_data
    from equicert.evaluation import write_certificates as write_certificates
    from equicert.image import reach as reach
    from equicert.layered import LayeredNetwork as LayeredNetwork
    from equicert.models import load_model as load_model
    from equicert.models import save_model as save_model
    from equicert.network import ImplicitNetwork as ImplicitNetwork
    from equicert.norms import matrix_measure as matrix_measure
    from equicert.sequential import from_sequential as from_sequential
    from equicert.sequential import to_sequential as to_sequential
    from equicert.stored import StoredNetwork as StoredNetwork

__version__ = "0.1.0"

_HOME = {
    "Box": "boxes",
    "ImplicitNetwork": "network",
    "LayeredNetwork": "layered",
    "StoredNetwork": "stored",
    "certify": "certification",
    "from_sequential": "sequential",
    "load_data": "data",
    "load_model": "models",
    "matrix_measure": "norms",
    "parse_activation": "activations",
    "reach": "image",
    "save_model": "models",
    "to_sequential": "sequential",
    "write_certificates": "evaluation",
}
__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'equicert' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"equicert.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
