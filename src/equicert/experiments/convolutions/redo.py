"""The commands that train a model again, and certify and attack it."""

from __future__ import annotations

import shlex
from typing import Any

from equicert.experiments.convolutions.definition import MAIN, Convolutions, Entry
from equicert.presets import PRESETS, preset
from equicert.schedules import TrainConfig


def commands(study: Convolutions, entry: Entry, data: str) -> list[str]:
    """What to type, a command each; the first is missing where the training is not known."""
    config, folder = entry.training(0), f"runs/{entry.name}"
    trained = [] if config is None else [train_command(config, data, folder)]
    of = f"{shlex.quote(f'{folder}/model.safetensors')} --data {shlex.quote(data)}"
    limit = "" if study.limit is None else f" --limit {study.limit}"
    certified = [f"equicert certify {of} --eps {eps:g}{limit}" for eps in MAIN]
    return [
        *trained,
        *certified,
        *(f"equicert attack {of} --eps {eps:g} --limit {study.first()}" for eps in MAIN),
    ]


def train_command(config: TrainConfig, data: str, out: str) -> str:
    """`equicert train` with the recipe of the fewest differences, and these differences."""
    changes = {name: _changes(preset(name), config) for name in PRESETS}
    # An option takes no None: where a recipe sets what the config leaves open, it cannot serve.
    able = {name: found for name, found in changes.items() if None not in found.values()}
    name = min(able, key=lambda name: len(able[name]))
    words = ["equicert", "train", "--data", data, "--preset", name]
    for option, value in able[name].items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--seed", str(config.seed), "--out", out])


def _changes(recipe: TrainConfig, config: TrainConfig) -> dict[str, Any]:
    before = recipe.to_mapping()
    found = {name: v for name, v in config.to_mapping().items() if v != before[name]}
    return {name: v for name, v in found.items() if name != "seed"}
