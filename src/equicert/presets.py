"""Named recipes: what was found to train well, beside the published one.

No torch here, so that a command line can be built from it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from equicert.errors import ConfigError, nearest
from equicert.schedules import TrainConfig

# Explicit convolutions before an implicit block: the shipped models, or what they vary.
_CONVOLUTIONAL: Final[Mapping[str, Any]] = {
    "front": "24x4/2,48x4/2,48x3",
    "hidden": 128,
    "normalisation": "batch",
    "input_gain": 1.0,
    "kappa": 0.5,
    "kappa_start": 1.0,
    "clip_norm": 1.0,
    "overshoot": 1.3,
    "shift": 1,
    "epochs": 40,
    "batch_size": 128,
    "learning_rate": 5e-3,
    "warmup": 0.5,
    "decay": "cosine",
    "decay_start": 8.0,
    "ramp_start": 0.5,
    "ramp_end": 8.0,
    "tolerance": 1e-3,
    "evaluate_samples": 500,
}

# What each is worth on MNIST is measured in docs/results/README.md.
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "published": {},
    "lipschitz-published": {
        "recipe": "lipschitz",
        "eps": 0.03,
        "epochs": 15,
        "learning_rate": 1e-3,
        "learning_rate_late": 1e-3,
    },
    "best": {
        "input_gain": 1.0,
        "kappa": 1.0,
        "overshoot": 1.05,
        "epochs": 60,
        "batch_size": 200,
        "learning_rate": 5e-3,
        "warmup": 2.0,
        "decay": "cosine",
        "ramp_start": 0.0,
        "ramp_end": 10.0,
    },
    "convolutional": _CONVOLUTIONAL,
    "convolutional-0.3": {
        **_CONVOLUTIONAL,
        "eps": 0.3,
        "overshoot": 1.05,
        "shift": 0,
        "epochs": 50,
        "decay_start": 20.0,
        "ramp_end": 20.0,
    },
    "adversarial": {
        "recipe": "adversarial",
        "input_gain": 1.0,
        "kappa": 1.0,
        "epochs": 20,
        "batch_size": 200,
        "learning_rate": 3e-3,
        "warmup": 1.0,
        "decay": "cosine",
        "ramp_start": 0.0,
        "ramp_end": 4.0,
    },
    "small-box": {
        "recipe": "small-box",
        "input_gain": 1.0,
        "kappa": 1.0,
        "tau": 0.05,
        "attack_steps": 3,
        "epochs": 60,
        "batch_size": 200,
        "learning_rate": 5e-3,
        "warmup": 2.0,
        "decay": "cosine",
        "ramp_start": 0.0,
        "ramp_end": 10.0,
    },
}


def preset(name: str, **changes: Any) -> TrainConfig:
    """The settings of a named recipe, with some of them changed.

    "published" is the inclusion recipe of [J22], "lipschitz-published" its Lipschitz recipe (8), to
    be tried with a `lipschitz_weight` of 0, 1e-1, ..., 1e-5. "best" certifies the most at n = 100
    among the inclusion recipes tried: only the worst case counts (kappa = 1), eps grows within ten
    epochs to 5 % beyond what is certified, Adam's step size is ten times as large, rises over two
    epochs and falls by half a cosine, and batches are larger. "adversarial" is [M18]'s training
    against projected gradient ascent, wholly on the points that it finds (kappa = 1), seven steps
    each, for 20 epochs: a baseline that attacks find hard and of which little is certified.
    "convolutional" certifies more yet: three explicit convolutions, normalised by the statistics
    of their boxes' centres, before an implicit block of 128 states, the worst case alone at first
    and half of the loss at last, a step size that falls only once eps has grown, and images moved
    by up to a pixel. "convolutional-0.3" is for eps = 0.3: it grows more slowly, to 5 % beyond, and
    images are as they are.
    "small-box" is [M23]'s training on boxes of 0.05 eps about points of three such steps, for
    methods that search: (14) certifies next to nothing of it, and `complete` more than of "best".

    Example: `preset("best", hidden=50, seed=3)`

    Raises:
        ConfigError: there is no such recipe, or a setting is unknown or out of its range.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    return TrainConfig.from_mapping({**PRESETS[name], **changes})
