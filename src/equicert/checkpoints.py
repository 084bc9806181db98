"""What a training run leaves in its folder so that it can be resumed: a record and checkpoints."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from equicert.data import DataSet, Domain
from equicert.errors import OutputError
from equicert.runs import versions, write_atomic
from equicert.schedules import TrainConfig

CONFIG: Final = "config.yaml"
_FORMAT: Final = 1

# What zipfile, pickle and torch raise on files that are cut short or are something else.
_DAMAGED: Final = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two epochs: all that the rest of it depends on.

    Attributes:
        epoch: epochs done.
        threads: CPU threads of the run.
        network: `state_dict` of the network.
        optimiser: `state_dict` of the optimiser.
    """

    epoch: int
    threads: int
    network: dict[str, Any]
    optimiser: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file atomically: a kill leaves the one before.

        Raises:
            OutputError: it cannot be written.
        """
        buffer = io.BytesIO()
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        torch.save({"format": _FORMAT, **state}, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """The checkpoint in a file, its tensors on the CPU; None if there is no file.

        Raises:
            OutputError: it is damaged, or of another version of this library.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state.pop("format") == _FORMAT:
                return cls(**state)
        except FileNotFoundError:
            return None
        except _DAMAGED as error:
            raise OutputError(
                f"{path} cannot be read as a checkpoint; start again in another folder"
            ) from error
        raise OutputError(
            f"{path} is a checkpoint of another version of equicert; resume with that version, or"
            " start again in another folder"
        )


@dataclass(frozen=True)
class RunRecord:
    """What a training run is about.

    Attributes:
        config: its settings.
        data: its data.
        spec: what `load_data` was given.
    """

    config: TrainConfig
    data: DataSet
    spec: str

    def identity(self) -> dict[str, Any]:
        """What a run must share with the one that it resumes. The data's path may change."""
        data = {"data_digest": self.data.digest, "domain": describe_domain(self.data.domain)}
        return self.config.to_mapping() | data

    def to_yaml(self, threads: int, model_digest: str | None = None) -> str:
        """The text of config.yaml; the model's digest once there is a model."""
        data = {
            "spec": self.spec,
            "name": self.data.name,
            "digest": self.data.digest,
            "domain": describe_domain(self.data.domain),
        }
        record = {
            "config": self.config.to_mapping(),
            "data": data,
            "threads": threads,
            "versions": versions(),
            "model_digest": model_digest,
        }
        return yaml.safe_dump(record, sort_keys=False)


@dataclass(frozen=True)
class RecordedRun:
    """What the folder of a training run says of it: enough to resume it.

    `Trainer(run.restrict(load_data(run.spec)), run.config, out, spec=run.spec, resume=True)`
    continues the run.
    """

    config: TrainConfig
    spec: str
    domain: object
    model_digest: object  # of the trained weights; None before the end

    def restrict(self, data: DataSet) -> DataSet:
        """The data with the recorded domain; one of vectors is the data's own."""
        match self.domain:
            case None:
                return replace(data, domain=None)
            case [float() as lo, float() as hi]:
                return replace(data, domain=(lo, hi))
            case _:
                return data


def recorded_run(out: str | Path) -> RecordedRun:
    """The training run that a folder holds.

    Raises:
        OutputError: there is no such run.
        ConfigError: config.yaml was changed into something invalid.
    """
    path = Path(out) / CONFIG
    try:
        record = yaml.safe_load(path.read_text("utf-8"))
        config, spec = dict(record["config"]), str(record["data"]["spec"])
        domain, digest = record["data"]["domain"], record.get("model_digest")
    except FileNotFoundError as error:
        raise OutputError(
            f"{out} holds no training run to resume: {CONFIG} is missing; start one there"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise OutputError(
            f"{path} cannot be read as the record of a training run; start again in another folder"
        ) from error
    return RecordedRun(TrainConfig.from_mapping(config), spec, domain, digest)


def describe_domain(domain: Domain) -> list[float] | str | None:
    """Two numbers, or the digest of two vectors: short, and different where domains are."""
    if domain is None:
        return None
    ends = [np.asarray(end, np.float64) for end in domain]
    if all(end.ndim == 0 for end in ends):
        return [float(end) for end in ends]
    digest = hashlib.sha256(b"".join(np.atleast_1d(end).tobytes() + b";" for end in ends))
    return f"sha256:{digest.hexdigest()}"


def load_moments(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the `state_dict` of an optimiser, each tensor in the memory format of its parameter.

    A fused step goes through both in the order of memory, whatever their strides.

    Raises:
        RuntimeError, ValueError, KeyError, TypeError: it is not of these parameters.
    """
    optimiser.load_state_dict(saved)
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value).detach()
