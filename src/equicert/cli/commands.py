"""One function a command: read what is named, call the library, hand over what to print."""

from __future__ import annotations

import dataclasses
import math
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equicert.cli.methods import method_of
from equicert.cli.options import (
    AttackOptions,
    BoundOptions,
    CertifyOptions,
    DataOptions,
    InspectOptions,
)
from equicert.errors import InputError
from equicert.schedules import TrainConfig

if TYPE_CHECKING:
    from equicert.attacks import Attack
    from equicert.boxes import Box, Domain
    from equicert.data import DataSet
    from equicert.stored import StoredNetwork


_PGD_SETTINGS = ("steps", "step_size", "restarts", "seed")


def run_train(settings: dict[str, Any], *, preset: str, quiet: bool) -> None:
    """`equicert train`."""
    from equicert.checkpoints import recorded_run
    from equicert.cli import console
    from equicert.data import load_data
    from equicert.training import MODEL, Trainer

    if settings["preset"] != preset:
        raise InputError("a preset changes defaults: give --preset on the command line")
    names = {field.name for field in dataclasses.fields(DataOptions)}
    where = DataOptions(**{key: settings[key] for key in names})
    config = TrainConfig(**{key: value for key, value in settings.items() if key not in names})
    spec, out, resume = where.data, where.out, where.resume is not None
    recorded = recorded_run(where.resume) if where.resume is not None else None
    if recorded is not None:
        _refuse_other_settings(settings)
        spec, out, config = recorded.spec, where.resume, recorded.config
    if spec is None or out is None:
        raise InputError("train needs --data and --out, or --resume DIR to continue a run")
    data = load_data(spec, _path(where.data_dir), progress=not quiet)
    data = recorded.restrict(data) if recorded is not None else with_domain(data, where.domain)
    with console.training_progress(quiet) as progress:
        trainer = Trainer(data, config, out, spec=spec, resume=resume, progress=progress)
        trained = trainer.run()
    if not quiet:
        last = trained.metrics[-1]
        shown = [(k.replace("_", " "), v) for k, v in last.items() if v is not None]
        shown.append(("model", str(Path(out) / MODEL)))
        console.out().print(console.table("training, last epoch", shown))


def _refuse_other_settings(settings: dict[str, Any]) -> None:
    """A resumed run has its own settings: one given beside --resume would be ignored."""
    where = dataclasses.asdict(DataOptions())
    defaults = dataclasses.asdict(TrainConfig())
    defaults |= {key: where[key] for key in ("preset", "data", "out", "domain")}
    given = [key for key, value in settings.items() if value != defaults.get(key, value)]
    if given:
        raise InputError(
            f"--resume continues a run with its own options; leave out --{given[0]}, or start"
            " another run"
        )


def run_certify(
    options: CertifyOptions,
    model: str,
    *,
    radius: bool,
    per_margin: bool,
    local: bool,
    quiet: bool,
    resume: bool,
) -> None:
    """`equicert certify`."""
    from equicert.certify_run import Certification

    method = method_of(options, per_margin, local)
    eps = None if radius else options.eps
    tolerance = _tolerance(options)
    job = Certification(method, eps, options.largest, options.resolution, tolerance)
    _evaluate(job, options, model, quiet, resume)


def _tolerance(options: CertifyOptions) -> float | None:
    """Of the program that is certified beside the network; None if that is not asked."""
    if options.deployed is not None:
        return 1e-4 if options.tol is None else options.tol
    if options.tol is not None:
        raise InputError("--tol is the tolerance of the float32 program: add --deployed float32")
    return None


def run_attack(options: AttackOptions, model: str, *, quiet: bool, resume: bool) -> None:
    """`equicert attack`."""
    from equicert.attack_run import AttackRun

    _evaluate(AttackRun(_attack(options), options.eps), options, model, quiet, resume)


def _attack(options: AttackOptions) -> Attack:
    """The attack; a setting of another one is refused, for it would be ignored."""
    from equicert.attacks import FGSM, PGD, AutoAttack

    used = {"fgsm": (), "pgd": _PGD_SETTINGS, "autoattack": ("seed",)}[options.attack]
    default = {field.name: field.default for field in dataclasses.fields(AttackOptions)}
    for name in _PGD_SETTINGS:
        if name not in used and getattr(options, name) != default[name]:
            takes = ", ".join(f"--{key}" for key in used) or "none of pgd's settings"
            raise InputError(
                f"--{name} is not a setting of {options.attack}, which takes {takes}; leave it out"
            )
    if options.attack == "autoattack":
        return AutoAttack(seed=options.seed)
    pgd = PGD(*(getattr(options, name) for name in _PGD_SETTINGS))
    return FGSM() if options.attack == "fgsm" else pgd


def run_bound(options: BoundOptions, model: str, *, quiet: bool, json: bool) -> None:
    """`equicert bound`."""
    from equicert.cli import console
    from equicert.image import reach
    from equicert.models import load_model
    from equicert.runs import claim_folder

    network = load_model(Path(model), options.activation)
    box = _input_box(options)
    image = reach(network, box)
    contraction = image.contraction
    found = {
        "model": network.digest,
        "boxes": [
            {
                "input": {"lower": box.lo[k].tolist(), "upper": box.hi[k].tolist()},
                "output": {
                    "lower": image.output.lo[k].tolist(),
                    "upper": image.output.hi[k].tolist(),
                },
                "state": {"lower": image.state.lo[k].tolist(), "upper": image.state.hi[k].tolist()},
            }
            for k in range(box.batch)
        ],
        "proof": {
            "unique_fixed_point": "(M eta)_i < eta_i for all i, M the Metzler majorant of W",
            "eta": contraction.eta.tolist(),
            "mu": contraction.mu,
            "state_box": "N^E(lo, hi, xlo, xhi) >= lo and N^E(hi, lo, xhi, xlo) <= hi, rounded",
        },
    }
    if options.out is not None:
        identity = {"model": network.digest, "boxes": [b["input"] for b in found["boxes"]]}
        folder = claim_folder(options.out, "bound", identity)
        folder.write("bounds.json", dumps(found, indent=2, allow_nan=False) + "\n")
    if json:
        console.out().print_json(dumps(found))
    elif not quiet:
        for item in found["boxes"]:
            console.out().print(console.interval_table("output", **item["output"]))
            console.out().print(console.interval_table("state z", **item["state"]))
        ratio = float(contraction.eta.amax() / contraction.eta.amin())
        console.out().print(
            f"proved: mu(W) <= {contraction.mu:.6g} < 1 (eta ratio {ratio:.4g}), so z*(x) is"
            " unique; the state box passes the post-fixed-point test, rounded outwards"
        )


def run_inspect(options: InspectOptions, model: str, *, quiet: bool, json: bool) -> None:
    """`equicert inspect`."""
    from equicert.cli import console
    from equicert.inspection import inspect_network
    from equicert.models import load_model

    found = inspect_network(load_model(Path(model), options.activation))
    if json:
        console.out().print_json(dumps(found.to_mapping(), allow_nan=False))
    elif not quiet:
        console.print_inspection(found)


def _evaluate(
    job: Any, options: CertifyOptions | AttackOptions, model: str, quiet: bool, resume: bool
) -> None:
    """What certify and attack share: load, run with progress, print the summary."""
    from equicert.cli import console
    from equicert.data import load_data
    from equicert.evaluation import evaluate
    from equicert.jobs import Samples
    from equicert.models import load_model

    set_threads(options.threads)
    certificates = options.certificates if isinstance(options, CertifyOptions) else None
    if resume and options.out is None and certificates is None:
        raise InputError("--resume continues the run in a folder: name it with --out")
    network = load_model(Path(model), options.activation)
    _require_well_posed(network)
    data = load_data(options.data, _path(options.data_dir), progress=not quiet)
    data = with_domain(data, options.domain)
    samples = Samples.of(data, network, options.limit, data.domain)
    with console.progress(job.kind, quiet) as progress:
        summary = evaluate(
            job,
            network,
            samples,
            batch_size=options.batch_size,
            processes=options.processes if isinstance(options, CertifyOptions) else 1,
            out=_path(options.out),
            certificates=_path(certificates),
            resume=resume,
            progress=progress,
        )
    if not quiet:
        console.out().print(console.table(job.kind, console.summary_rows(summary)))


def _require_well_posed(network: StoredNetwork) -> None:
    """Stop before any work, with the one line that says why, where no proof can exist."""
    _ = network.well_posed


def _input_box(options: BoundOptions) -> Box:
    import torch

    from equicert.boxes import Box
    from equicert.vectors import read_rows

    match (options.lower, options.upper, options.center, options.eps):
        case (str() as low, str() as high, None, None):
            if options.domain is not None:
                raise InputError("--domain clips boxes made by --center and --eps; leave it out")
            lower, upper = read_rows(low, "lower"), read_rows(high, "upper")
            return Box(torch.from_numpy(lower), torch.from_numpy(upper))
        case (None, None, str() as middle, str() as width):
            centre, eps = read_rows(middle, "center"), read_rows(width, "eps")
            if len(eps) != 1:
                raise InputError(f"--eps is one number or one row of them, got {len(eps)} rows")
            radius = torch.from_numpy(eps[0])
            radius = radius[0] if len(radius) == 1 else radius
            domain = None if options.domain is None else parse_domain(options.domain)
            return Box.around(torch.from_numpy(centre), radius, domain)
    raise InputError("bound needs either --lower and --upper, or --center and --eps")


def parse_domain(text: str) -> Domain:
    """'lo,hi' as two numbers, 'none' as None.

    Raises:
        InputError: anything else.
    """
    if text.strip().lower() == "none":
        return None
    parts = text.replace(",", " ").split()
    try:
        lo, hi = (float(part) for part in parts)
    except ValueError as error:
        raise InputError(f"domain must be 'lo,hi' or 'none', got '{text}'") from error
    if not -math.inf < lo <= hi < math.inf:
        raise InputError(
            f"the domain '{text}' is inverted, infinite or NaN: give the lower end first, both"
            " finite, or 'none'"
        )
    return lo, hi


def set_threads(threads: int | None) -> None:
    """Give torch this many threads; None leaves its choice.

    Raises:
        InputError: fewer than one.
    """
    import torch

    if threads is not None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def with_domain(data: DataSet, text: str | None) -> DataSet:
    """The data with the domain of `--domain`; None leaves their own.

    Raises:
        InputError: as `parse_domain`.
    """
    return data if text is None else dataclasses.replace(data, domain=parse_domain(text))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
