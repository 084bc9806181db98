"""What is measured of each model of a comparison, by the jobs that certify and attack run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from equicert.attack_run import AttackRun
from equicert.attacks import PGD
from equicert.bounds import (
    Interval,
    Lipschitz,
    LipschitzRadius,
    Method,
    SignSplit,
    Spectral,
    SpectralLmi,
)
from equicert.bounds.sign_split import ILL_POSED
from equicert.boxes import Surroundings
from equicert.certify_run import Certification
from equicert.checkpoints import describe_domain
from equicert.comparison.results import Attacked, Certified, Compared, Named
from equicert.data import DataSet
from equicert.errors import (
    InputError,
    NotContractingError,
    NotConvergedError,
    NotMonotoneError,
    RowSumError,
    TooLargeError,
)
from equicert.evaluation import Evaluation, evaluate_lines
from equicert.experiments.progress import Progress
from equicert.experiments.verdicts import (
    Contradiction,
    ContradictionError,
    Lines,
    attacks_on_proved,
)
from equicert.jobs import Samples
from equicert.lipschitz import Derived, RowSum, Weighted
from equicert.norms import spectral_radius_of_absolute
from equicert.queries import Query
from equicert.runs import RunFolder, claim_folder
from equicert.stored import StoredNetwork

METHODS: Final[tuple[Method, ...]] = (
    Interval(),
    SignSplit(),
    Lipschitz(),
    Lipschitz(local=True),
    LipschitzRadius(Derived(), per_margin=True),
    LipschitzRadius(Weighted()),
    LipschitzRadius(RowSum()),
    Spectral(),
    SpectralLmi(),
)
_BATCH: Final = 500  # samples between two reports of progress, and what a kill can lose


def compare(
    models: Sequence[Named],
    data: DataSet,
    eps: float,
    *,
    limit: int | None = None,
    methods: Sequence[Method] = METHODS,
    attack: PGD | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Compared]:
    """Attack every model and certify it by every method, on the same samples and boxes.

    A method that does not apply to a model says why. See `refuse_contradictions` for the check
    that no attack succeeded where a method says that none can.

    Example:
        >>> found = compare([Named("a", load_model("a.npz"))], load_data("digits"), 0.1)
        >>> [(c.method, c.accuracy) for c in found[0].certificates]

    Args:
        models: networks of as many inputs as the data have, under different names.
        data: its test split is used, and its domain clips the boxes.
        eps: radius in the sup-norm, in the units of the data.
        limit: the first so many samples only.
        methods: those to try.
        attack: by default PGD() with its default settings.
        out: folder for the verdicts of each model by each method, in folders of their own.
        resume: continue in `out` what a kill interrupted.
        progress: hears what is being done.

    Raises:
        InputError: no model, two of one name, eps negative or NaN, limit not positive, or data that
            do not fit a model.
        OutputError: `out` holds another run or cannot be written.
    """
    attack = attack or PGD()
    _check_names(models)
    samples = [_samples(model, data, limit, eps) for model in models]
    identity = {
        "models": {model.name: model.network.digest for model in models},
        "data": data.digest,
        "samples": len(samples[0].x),
        "domain": describe_domain(data.domain),
        "eps": eps,
        "methods": [repr(method) for method in methods],
        "attack": repr(attack),
    }
    folder = None if out is None else claim_folder(out, "compare", identity, resume)
    bench = _Bench(eps, methods, attack, folder, progress or Progress(), len(models))
    return [
        bench.measure(number, model, own)
        for number, (model, own) in enumerate(zip(models, samples, strict=True))
    ]


def refuse_contradictions(found: Sequence[Compared]) -> None:
    """Raise if a sample was certified and broken.

    Raises:
        ContradictionError: the first of them, by name.
    """
    broken = [contradiction for model in found for contradiction in model.contradictions]
    if broken:
        raise ContradictionError(broken)


def why_not(method: Method, network: StoredNetwork, samples: Samples, eps: float) -> str:
    """Why a method proves nothing of a network, whatever the sample; "" where it may.

    It is asked about one sample; what it needs of the weights is then at hand for the others.
    """
    x, y = samples.x[:1], samples.y[:1]
    box = Surroundings(x, eps, samples.domain)[:1]
    try:
        answer = method.answer(network, Query.of_margins(box, y, network.outputs, x))
    except NotContractingError as error:
        return f"not proved contracting: mu(W) = {error.mu:.6g} at the best eta found"
    except NotMonotoneError as error:
        return f"not proved monotone: {error.known} at the best Lambda known"
    except (RowSumError, TooLargeError) as error:
        return error.known
    except NotConvergedError:
        return "no Lipschitz bound passed its rounded test: mu(W) is too close to 1 for float64"
    if answer.state.reason == (ILL_POSED,):
        found = spectral_radius_of_absolute(network.W.dense())
        return f"needs lambda_pf(|W|) < 1 proved, which is {found:.6g}"
    return ""


@dataclass(frozen=True)
class _Bench:
    """What all models of a comparison have in common."""

    eps: float
    methods: Sequence[Method]
    attack: PGD
    folder: RunFolder | None
    progress: Progress
    models: int

    def measure(self, number: int, model: Named, samples: Samples) -> Compared:
        network = model.network
        proved = _proofs(network)
        none = _no_proof(network) if not any(proved) else ""
        if none:
            attack, clean, struck = Attacked(None, None, None, none), None, []
        else:
            attack, clean, struck = self._attack(number, model, samples)
        certificates, contradictions = [], []
        for place, method in enumerate(self.methods, 1):
            reason = none or why_not(method, network, samples, self.eps)
            if reason:
                certificates.append(Certified(method.name, None, None, {}, reason))
                continue
            job = Certification(method, self.eps)
            found = self._run(job, method.name, number, place, model, samples)
            certificates.append(_certified(method, found.summary))
            contradictions += _contradictions(model.name, method.name, self.eps, found, struck)
            clean = found.summary["clean_accuracy"] if clean is None else clean
        entries = stored_entries(network)
        return Compared(
            model.name,
            network.digest,
            network.activation.spec,
            network.states,
            sum(entry.numel() for entry in entries),
            sum(int(entry.count_nonzero()) for entry in entries),
            *proved,
            clean,
            attack,
            tuple(certificates),
            tuple(contradictions),
        )

    def _attack(
        self, number: int, model: Named, samples: Samples
    ) -> tuple[Attacked, float | None, Lines]:
        """What the attack left, the clean accuracy, and the lines of the attack."""
        job = AttackRun(self.attack, self.eps)
        try:
            # What is loaded and compiled at first use is not charged to the first model.
            x, y = samples.x[:1], samples.y[:1]
            self.attack.run(model.network, x, y, self.eps, samples.domain)
            found = self._run(job, job.name, number, 0, model, samples)
        except NotConvergedError as error:
            missed = f"{error.failed} of {error.batch} samples missed the tolerance"
            return Attacked(None, None, None, f"not attacked: {missed} of a solve"), None, []
        summary, lines = found.summary, found.lines
        struck = sum(line["status"] != "misclassified" for line in lines)
        left = Attacked(summary["robust_accuracy"], struck, summary["seconds"], "")
        return left, summary["clean_accuracy"], lines

    def _run(
        self,
        job: Certification | AttackRun,
        what: str,
        number: int,
        place: int,  # 0 for the attack, then the methods
        model: Named,
        samples: Samples,
    ) -> Evaluation:
        each = 1 + len(self.methods)
        self.progress.stage(number * each + place + 1, self.models * each, f"{model.name}: {what}")
        out = None
        if self.folder is not None:
            name = model.name.strip("/").replace("/", "-").replace(":", "-")
            out = self.folder / f"{number + 1}-{name}" / what
        return evaluate_lines(
            job,
            model.network,
            samples,
            batch_size=_BATCH,
            out=out,
            resume=True,  # the folder above is this comparison's alone
            progress=self.progress.samples,
        )


def _check_names(models: Sequence[Named]) -> None:
    if not models:
        raise InputError("there is no model to compare; name at least one")
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called '{name}'; give them different names")


def _samples(model: Named, data: DataSet, limit: int | None, eps: float) -> Samples:
    """The samples, once everything about them and the model that could fail later has passed."""
    if model.network.outputs < 2:
        raise InputError(f"model {model.name} has one output: it has no classes to tell apart")
    try:
        Samples.of(data, model.network, None, data.domain)
    except InputError as error:
        raise InputError(f"model {model.name}: {error}") from error
    samples = Samples.of(data, model.network, limit, data.domain)
    Certification(Interval(), eps).check(model.network, samples)
    return samples


def _proofs(network: StoredNetwork) -> tuple[bool, bool]:
    """Whether the network is proved contracting, and monotone."""
    contracting = monotone = False
    with suppress(NotContractingError):
        contracting = bool(network.contraction.mu < 1)
    with suppress(NotMonotoneError, TooLargeError):
        monotone = bool(network.monotone.m > 0)
    return contracting, monotone


def _no_proof(network: StoredNetwork) -> str:
    try:
        _ = network.well_posed
    except NotContractingError as error:
        return f"no unique fixed point is proved: mu(W) = {error.mu:.6g}{error.detail}"
    return ""


def stored_entries(network: StoredNetwork) -> list[Tensor]:
    """The stored tensors of W, U, b, C and c."""
    operators = [*network.W.tensors().values(), *network.U.tensors().values()]
    return [*operators, network.b, network.C, network.c]


def _certified(method: Method, summary: Mapping[str, Any]) -> Certified:
    reasons, seconds = summary["reasons"], summary["seconds"]
    return Certified(method.name, summary["certified_accuracy"], seconds, reasons, "")


def _contradictions(
    model: str, method: str, eps: float, found: Evaluation, struck: Lines
) -> list[Contradiction]:
    """Samples that the method certifies, and the attack broke or found misclassified."""
    proved = {line["index"]: eps for line in found.lines if line["status"] == "certified"}
    _, broken = attacks_on_proved(proved, [(eps, struck)])
    return [
        replace(one, method=f"{one.method} (model {model}, certified by {method})")
        for one in broken
    ]
