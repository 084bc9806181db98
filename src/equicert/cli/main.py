"""The command line: parse, call, print. No mathematics."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, ClassVar, NoReturn

from jsonargparse import ArgumentParser

from equicert import __version__, checker, zoo
from equicert.cli import commands, demo
from equicert.cli.compare import run_compare
from equicert.cli.options import (
    AttackOptions,
    BoundOptions,
    CertifyOptions,
    CompareOptions,
    DataOptions,
    DemoOptions,
    InspectOptions,
    ReproduceOptions,
    VerifyOptions,
)
from equicert.cli.reproduce import EXPERIMENTS, run_reproduce
from equicert.cli.verify import run_verify
from equicert.cli.zoo import run_zoo
from equicert.errors import EquicertError, InputError, ModelError, OutputError, nearest
from equicert.presets import PRESETS
from equicert.schedules import TrainConfig

_DESCRIPTION = """Train implicit (equilibrium) neural networks whose robustness can be proved, and
prove it. `equicert COMMAND --help` explains each; `equicert demo` shows them all at work."""

_HELP = {
    "train": "Train a robust implicit network by inclusion functions ([J22], (11)), over whole or"
    " small boxes, with its Lipschitz bound penalised (8), or adversarially, and write"
    " OUT/model.safetensors. Killed at any moment, --resume OUT continues to the same weights.",
    "certify": "Decide for every test sample whether each input within eps provably has its label."
    " A line a sample goes to OUT/verdicts.jsonl: 'certified' is a theorem about the stored"
    " weights, 'claimed' the word of a solver, 'unknown' says why it is neither. --certificates DIR"
    " writes down what proves each theorem, for `equicert check`.",
    "bound": "Enclose the outputs and the state of the network over boxes of inputs, rounded"
    " outwards, and show what proves it. No labels are needed.",
    "check": "Check certificates in exact arithmetic, by a program of the standard library alone"
    " that shares no code with the one that wrote them (also: python -I -S src/equicert/checker).",
    "attack": "Search each sample's box for an input that changes its label (FGSM, PGD,"
    " AutoAttack).",
    "inspect": "Which of five conditions for a unique fixed point hold, proved or refuted, with"
    " their numbers; every Lipschitz bound that applies, sup-norm and l2, beside the largest"
    " Jacobian that a search meets, so that the gap is seen.",
    "compare": "Set models side by side on the same samples: parameters, clean accuracy, accuracy"
    " under PGD, certified accuracy by every method that applies, and seconds. A method that does"
    " not apply to a model says why.",
    "verify": "Decide a property of a network, both in files: whether any input of its box is"
    " mapped into its unsafe set. The first line of standard output is 'unsat' (none is: the"
    " property holds), 'sat' (one is, and follows), 'unknown' or 'timeout'; everything else goes to"
    " standard error. Exit status 0 with one of these words, 2 for files or options that cannot be"
    " used, 1 for a network that cannot be verified: then there is no word. The verdict is about"
    " real arithmetic on the stored weights. --instances runs a whole benchmark.",
    "reproduce": "Reproduce a published experiment of [J22], certified over a grid of radii, in a"
    " figure, results.md and results.json. 'figure1': networks trained by (8) with six weights"
    " lambda, and a MON. 'figure2': a robust and a non-robust network, attacked by PGD, beside the"
    " published numbers. 'systems': every system of this package under its best certificate."
    " 'verification': what each method of `certify --method auto` decides, and at what cost."
    " 'convolutions': dense and convolutional networks, beside the best published numbers.",
    "zoo": "List the models that come with the package, zoo:NAME wherever a model is taken: what"
    " was measured of them, and the commands that made and measured them.",
    "demo": "Train on handwritten digits, certify, attack, and write figures and a report.",
}


_OPTIONS: dict[str, list[type[Any]]] = {
    "train": [DataOptions, TrainConfig],
    "certify": [CertifyOptions],
    "bound": [BoundOptions],
    "check": [],
    "attack": [AttackOptions],
    "inspect": [InspectOptions],
    "compare": [CompareOptions],
    "verify": [VerifyOptions],
    "reproduce": [ReproduceOptions],
    "zoo": [],
    "demo": [DemoOptions],
}


_FLAGS = {  # name: (the commands that have it, help)
    "radius": ("certify", "instead of one eps, find each sample's largest certified radius"),
    "per_margin": ("certify", "with --bound, a constant for each margin instead of 2 Lip"),
    "local": ("certify", "with --method lipschitz, slopes from the bounds on each box"),
    "quick": ("reproduce demo", "few epochs and samples only, to see that everything works"),
    "resume": ("certify attack compare reproduce", "continue the run in OUT"),
    "json": ("bound inspect compare", "print JSON instead of tables"),
    "quiet": (
        "train certify bound attack inspect compare reproduce demo",
        "no progress and no table",
    ),
}

_MODEL = "a .safetensors or .npz file, or zoo:NAME"


class _Parser(ArgumentParser):
    """One-line errors that name the nearest known option."""

    options: ClassVar[set[str]] = set()  # of the command that is being parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        del ex  # its text is in the message
        text = " ".join(message.split())
        unknown = re.search(r"(?:unrecognized arguments: -*|not accept option ')([\w.-]+)", text)
        if unknown:
            known = {s[2:] for s in self.options if s.startswith("--") and "print" not in s}
            text += nearest(unknown[1].replace("-", "_"), known)
        text = re.sub(  # an option that may be left out: say what it takes besides nothing
            r"Does not validate against any .* Errors: - Expected an? (.*?) - Expected a <class"
            r" 'NoneType'> .*Given value: ",
            r"Expected a \1. Got value: ",
            text,
        )
        wrong = re.fullmatch(r"Parser key \"(\w+)\": (.*?)\.? Got value: (.*)", text)
        if wrong:
            wanted = wrong[2].replace("a <class 'float'>", "a finite number")
            wanted = wanted.replace("a <class 'int'>", "a whole number")
            wanted = wanted.replace("a typing.Literal[", "one of [")
            text = f"--{wrong[1]}: {wanted}, got {wrong[3]}"
        _fail(text, 2)


def main(argv: list[str] | None = None) -> None:
    """Entry point: exit status 0 for success, 2 for bad input, 1 for a run that failed."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["check"]:  # it reads its own words, and nothing of ours comes in between
        try:
            words = _with_file(argv[1:])
        except ModelError as error:
            _fail(str(error), 2)
        sys.exit(checker.main(words))
    parser = _build(argv)
    options = parser.parse_args([_with_underscores(word) for word in argv])
    if options.command is None:
        parser.print_help()
        sys.exit(2)
    try:
        _run(options.command, vars(options[options.command]), argv)
        sys.stdout.flush()
    except (InputError, OutputError) as error:
        _fail(str(error), 2)
    except EquicertError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; --resume continues a run with an output folder", 130)
    except BrokenPipeError:  # the reader of our output has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _with_file(words: list[str]) -> list[str]:
    """The words of `check`, with a file for `--model zoo:NAME`: the checker knows no other."""
    found = []
    for before, word in zip(["", *words[:-1]], words, strict=True):
        option = "--model=" if word.startswith("--model=") else ""
        model = word.removeprefix(option)
        named = (option or before == "--model") and model.startswith(zoo.PREFIX)
        found.append(f"{option}{zoo.resolve(model)}" if named else word)
    return found


def _build(argv: list[str]) -> _Parser:
    parser = _Parser(prog="equicert", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"equicert {__version__}")
    subcommands = parser.add_subcommands(dest="command", required=False)
    for name, text in _HELP.items():
        sub = _Parser(prog=f"equicert {name}", description=text)
        if name in argv:
            _add_options(sub, name)
            if name == "train":  # other defaults, so that what is given still overrides them
                sub.set_defaults(dict(PRESETS.get(_preset(argv), {})))
            _Parser.options = {f"--{key}" for key in vars(sub.get_defaults())}
        subcommands.add_subcommand(name, sub, help=text)
    return parser


def _add_options(parser: _Parser, name: str) -> None:
    if name == "reproduce":
        parser.add_argument("experiment", type=str, help=", ".join(EXPERIMENTS))
    elif name == "compare":
        parser.add_argument("models", type=str, nargs="+", help=f"{_MODEL} each")
    elif name not in ("train", "demo", "verify", "zoo"):
        parser.add_argument("model", type=str, help=_MODEL)
    if name not in ("demo", "zoo"):
        parser.add_argument("--config", action="config", help="YAML file with options by name")
    for options in _OPTIONS[name]:
        parser.add_class_arguments(options, nested_key=None)
    for flag, (commands_with_it, text) in _FLAGS.items():
        if name in commands_with_it.split():
            parser.add_argument(f"--{flag}", action="store_true", help=text)


def _preset(argv: list[str]) -> str:
    """What `--preset` says; options are parsed after their defaults are known."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--preset":
            return following
        if word.startswith("--preset="):
            return word.partition("=")[2]
    return "published"


def _with_underscores(word: str) -> str:
    """`--batch-size=5` as the parser knows it; values are left alone."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name[:2] == "--" else word


def _run(name: str, settings: dict[str, Any], argv: list[str]) -> None:
    settings.pop("config", None)
    flags = {flag: settings.pop(flag) for flag in _FLAGS if isinstance(settings.get(flag), bool)}
    match name:
        case "train":
            commands.run_train(settings, preset=_preset(argv), **flags)
        case "demo":
            demo.run_demo(DemoOptions(**settings), **flags)
        case "reproduce":
            experiment = settings.pop("experiment")
            run_reproduce(experiment, ReproduceOptions(**settings), **flags)
        case "zoo":
            run_zoo()
        case "verify":
            run_verify(VerifyOptions(**settings))
        case "compare":
            models = settings.pop("models")
            run_compare(CompareOptions(**settings), models, **flags)
        case "certify":
            model = settings.pop("model")
            commands.run_certify(CertifyOptions(**settings), model, **flags)
        case "attack":
            model = settings.pop("model")
            commands.run_attack(AttackOptions(**settings), model, **flags)
        case "bound":
            model = settings.pop("model")
            commands.run_bound(BoundOptions(**settings), model, **flags)
        case _:
            model = settings.pop("model")
            commands.run_inspect(InspectOptions(**settings), model, **flags)


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"equicert: error: {' '.join(message.split())}\n")
    sys.exit(status)
