"""The options of each command, as typed dataclasses: also the keys of `--config` files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class DataOptions:
    """Where a training run reads and writes, and where its settings start from.

    Args:
        preset: recipe whose settings are the defaults below: published ([J22], (11)),
            lipschitz-published ([J22], (8)), best (certifies the most by box bounds of those of one
            implicit block tried on mnist), convolutional and convolutional-0.3 (of all, at eps =
            0.1 and 0.3: explicit convolutions before an implicit block), adversarial ([M18], for
            empirical robustness), or small-box ([M23], for methods that search). On the command
            line only, not in a --config file.
        data: digits, mnist, or an .npz file with x_train, y_train, x_test, y_test.
        out: folder of the run; model.safetensors is written there.
        domain: 'lo,hi' or 'none'; default the data set's own. Boxes are clipped to it.
        data_dir: where mnist/ lies; default $EQUICERT_DATA_DIR, then the cache.
        resume: continue the run in this folder, with its own options.
    """

    preset: Literal[
        "published",
        "best",
        "convolutional",
        "convolutional-0.3",
        "lipschitz-published",
        "adversarial",
        "small-box",
    ] = "published"
    data: str | None = None
    out: str | None = None
    domain: str | None = None
    data_dir: str | None = None
    resume: str | None = None


@dataclass
class CertifyOptions:
    """Options of `equicert certify`.

    Args:
        data: digits, mnist, or an .npz file with x_test and y_test.
        eps: radius of the box about each sample, sup-norm, in the units of the data.
        largest: with --radius, the largest radius to try.
        resolution: with --radius, how finely to bisect.
        method: interval is certificate (14) of [J22], lipschitz is (13): in its derived form, about
            each box's own centre, or as printed, if --bound is given; sign-split is the interval
            iteration of [WeiK22], for comparison; spectral is the l2 bound of [P21] for monotone
            networks, sharpened, or as printed, if --bound is given;
            semidefinite is the relaxation of [C21] for small networks, whose verdicts are claims
            of a solver (needs the extra sdp). For ReLU, leaky ReLU and hard-tanh: dual bounds
            every margin by a multiplier that is ascended; tightening bounds every neuron so,
            first; complete goes on by branch and bound and looks for witnesses, until each sample
            is certified or falsified; auto is lipschitz, interval and complete in turn, each sample
            leaving at the first that decides it.
        timeout: with tightening, complete and auto, seconds a sample; default 60.
        total_timeout: with these, seconds for all samples; what is left is unknown.
        bound: with lipschitz, certificate (13) as printed, margin(x) - 2 Lip radius, by this bound
            on Lip: weighted (Theorem 6.1), row-sum ([EG21]) or derived. With spectral, printed is
            margin(x) - sqrt(2) Lip_2 sqrt(inputs) radius, Lip_2 that of [P21], and lmi takes Lip_2
            from a linear matrix inequality [R20], for networks trained with a prescribed bound.
        deployed: float32 also certifies the label that the program returns: weights and inputs
            rounded to float32, Picard's iteration on the CPU, stopped at --tol. Piecewise-linear
            activations only.
        tol: with --deployed, the sup-norm tolerance of that program; default 1e-4.
        domain: 'lo,hi' or 'none'; default the data set's own. Boxes are clipped to it.
        limit: only the first so many test samples.
        batch_size: samples at a time.
        activation: needed when an .npz model does not name its own.
        data_dir: where mnist/ lies; default $EQUICERT_DATA_DIR, then the cache.
        out: folder for verdicts.jsonl and summary.json.
        certificates: folder for a proof of every certified verdict, which `equicert check` checks;
            for interval, sign-split, lipschitz without --bound, dual, tightening, complete and
            auto, which also write the witness of every falsified verdict. Verdicts and summary are
            written there, too, unless --out names another folder.
        threads: CPU threads; default torch's choice.
        processes: how many work side by side, each on samples of its own and with one thread: worth
            it where each sample takes long.
    """

    data: str
    eps: float = 0.1
    largest: float = 1.0
    resolution: float = 1e-4
    method: Literal[
        "interval",
        "lipschitz",
        "sign-split",
        "spectral",
        "semidefinite",
        "dual",
        "tightening",
        "complete",
        "auto",
    ] = "interval"
    bound: Literal["weighted", "row-sum", "derived", "printed", "lmi"] | None = None
    deployed: Literal["float32"] | None = None
    tol: float | None = None
    timeout: float | None = None
    total_timeout: float | None = None
    domain: str | None = None
    limit: int | None = None
    batch_size: int = 1000
    activation: str | None = None
    data_dir: str | None = None
    out: str | None = None
    certificates: str | None = None
    threads: int | None = None
    processes: int = 1


@dataclass
class AttackOptions:
    """Options of `equicert attack`.

    Args:
        data: digits, mnist, or an .npz file with x_test and y_test.
        eps: radius of the box about each sample, sup-norm, in the units of the data.
        attack: fgsm (one step), pgd (projected gradient descent), or autoattack (APGD-CE, APGD-T,
            FAB-T and Square in their standard version; without APGD-T below 4 classes).
        steps: steps of pgd.
        step_size: step of pgd; default 2.5 eps / steps.
        restarts: random starts of pgd.
        seed: seed of the random starts of pgd, and of autoattack.
        domain: 'lo,hi' or 'none'; default the data set's own.
        limit: only the first so many test samples.
        batch_size: samples at a time.
        activation: needed when an .npz model does not name its own.
        data_dir: where mnist/ lies; default $EQUICERT_DATA_DIR, then the cache.
        out: folder for verdicts.jsonl and summary.json.
        threads: CPU threads; default torch's choice.
    """

    data: str
    eps: float = 0.1
    attack: Literal["pgd", "fgsm", "autoattack"] = "pgd"
    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    seed: int = 0
    domain: str | None = None
    limit: int | None = None
    batch_size: int = 1000
    activation: str | None = None
    data_dir: str | None = None
    out: str | None = None
    threads: int | None = None


@dataclass
class BoundOptions:
    """Options of `equicert bound`. Give --lower and --upper, or --center and --eps.

    Args:
        lower: lower ends of the input boxes: a .npy, .json, .csv or .txt file (a row a box), or
            numbers such as 0,0.5,1.
        upper: upper ends, likewise.
        center: centres, likewise.
        eps: radius about the centres: one number, or one per input, likewise.
        domain: 'lo,hi' to intersect with; default none, for a model has no domain.
        activation: needed when an .npz model does not name its own.
        out: folder for bounds.json.
    """

    lower: str | None = None
    upper: str | None = None
    center: str | None = None
    eps: str | None = None
    domain: str | None = None
    activation: str | None = None
    out: str | None = None


@dataclass
class VerifyOptions:
    """Options of `equicert verify`. Give --network and --property, or --instances and --out.

    Args:
        network: an .onnx file of a fully connected ReLU network, a .safetensors or .npz model, or
            zoo:NAME; .onnx.gz is read as it is.
        property: a .vnnlib file: a box of inputs and linear constraints on outputs, which name the
            unsafe set; .vnnlib.gz is read as it is.
        timeout: seconds after which the verdict is timeout; with --instances, at most these for
            each instance, whatever limit the file gives. Default none.
        instances: a benchmark in the form of VNN-COMP: lines of onnx,vnnlib,seconds, files relative
            to it.
        out: with --instances, the file for the results: lines of category, onnx, vnnlib, seconds to
            read, result, seconds to verify. Lines that it has already are kept.
        activation: needed when an .npz model does not name its own.
        threads: CPU threads; default torch's choice.
    """

    network: str | None = None
    property: str | None = None
    timeout: float | None = None
    instances: str | None = None
    out: str | None = None
    activation: str | None = None
    threads: int | None = None


@dataclass
class InspectOptions:
    """Options of `equicert inspect`.

    Args:
        activation: needed when an .npz model does not name its own.
    """

    activation: str | None = None


@dataclass
class CompareOptions:
    """Options of `equicert compare`.

    Args:
        data: digits, mnist, or an .npz file with x_test and y_test.
        eps: radius of the box about each sample, sup-norm, in the units of the data.
        domain: 'lo,hi' or 'none'; default the data set's own. Boxes are clipped to it.
        limit: only the first so many test samples, of every model and method.
        activation: of those .npz models that do not name their own.
        data_dir: where mnist/ lies; default $EQUICERT_DATA_DIR, then the cache.
        out: folder for comparison.md, comparison.json and all verdicts, by model and method.
        threads: CPU threads; default torch's choice.
    """

    data: str
    eps: float = 0.1
    domain: str | None = None
    limit: int | None = None
    activation: str | None = None
    data_dir: str | None = None
    out: str | None = None
    threads: int | None = None


@dataclass
class DemoOptions:
    """Options of `equicert demo`.

    Args:
        out: folder for the model, verdicts, figures and report.html; an earlier demo is replaced.
        seed: of the training run.
        threads: CPU threads; default 1, which is the fastest for a network this small.
    """

    out: str = "runs/demo"
    seed: int = 0
    threads: int | None = None


@dataclass
class ReproduceOptions:
    """Options of `equicert reproduce`.

    Args:
        data: digits, mnist, or an .npz file with x_train, y_train, x_test, y_test.
        out: folder for models, verdicts, figure and results.
        preset: of figure2 and verification, recipe of the robust model: published, or best.
        model: of verification, a .safetensors or .npz file, or zoo:NAME, to verify instead of a
            trained model. Of convolutions NAME=FILE, or several separated by commas: in place of
            the models that would be trained as dense, convolutional and convolutional-0.3, or
            beside them under another name.
        seeds: number of training runs a model, with seeds 0, 1, ...; default 3, of verification,
            convolutions and quick 1.
        epochs: of each training run; default the recipe's, quick 1, 2, 10 or 20.
        eps_max: of figure2 and verification, the largest radius of the grid, at least 0.1.
        timeout: of verification, seconds a sample; default 10.
        limit: only the first so many test samples; default all, of verification and quick 1000, of
            both 100.
        threads: CPU threads; default torch's choice.
        data_dir: where mnist/ lies; default $EQUICERT_DATA_DIR, then the cache.
    """

    data: str
    out: str
    preset: Literal["published", "best"] = "published"
    model: str | None = None
    seeds: int | None = None
    epochs: int | None = None
    eps_max: float = 0.2
    timeout: float | None = None
    limit: int | None = None
    threads: int | None = None
    data_dir: str | None = None
