"""Verdicts for a whole data set, written down as they become known: certify and attack."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from equicert.bounds import Interval, Method
from equicert.boxes import Domain
from equicert.certificates import prepare
from equicert.certification import as_stored
from equicert.certify_run import Certification
from equicert.errors import InputError
from equicert.jobs import Job, Samples
from equicert.network import ImplicitNetwork
from equicert.processes import batch_for, chunks_of
from equicert.queries import check_labels
from equicert.records import RECORDS, Records
from equicert.runs import JsonLines, RunFolder, claim_folder, read_lines, versions
from equicert.stored import StoredNetwork

Progress = Callable[[int, int], None]  # (samples done, samples in all)


def evaluate(
    job: Job,
    network: StoredNetwork,
    samples: Samples,
    *,
    batch_size: int = 1000,
    processes: int = 1,
    out: Path | None = None,
    certificates: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a job over all samples and return its summary.

    Raises:
        OutputError, InputError, NotContractingError: as `evaluate_lines`.
    """
    return evaluate_lines(
        job,
        network,
        samples,
        batch_size=batch_size,
        processes=processes,
        out=out,
        certificates=certificates,
        resume=resume,
        progress=progress,
    ).summary


@dataclass(frozen=True)
class Evaluation:
    """What a job found: a line a sample, as in `verdicts.jsonl`, and what they say together."""

    lines: list[dict[str, Any]]
    summary: dict[str, Any]


def evaluate_lines(
    job: Job,
    network: StoredNetwork,
    samples: Samples,
    *,
    batch_size: int = 1000,
    processes: int = 1,
    out: Path | None = None,
    certificates: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a job over all samples and return its lines, too.

    With `out`, `verdicts.jsonl` gains a line a sample as it is decided and `summary.json` is
    written at the end; a killed run continues with `resume` after its last whole line. With
    `certificates`, each certified sample's proof lies in that folder before its line is written;
    without `out` beside it the verdicts lie there, too.

    With more than one of `processes`, each works on batches of its own with one thread; lines are
    written in the order of the samples all the same. A script that asks for them needs the guard
    `if __name__ == "__main__":`, as Python's multiprocessing says.

    Raises:
        OutputError: a folder holds another run or cannot be written.
        InputError: as `certify`; certificates of a method that proves otherwise, of dual bounds on
            a smooth network, or of a run that is larger than what is checked.
        NotContractingError: certificates of a network without an eta.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    job.check(network, samples)
    if isinstance(job, Certification):
        batch_size = min(batch_size, job.method.together)
    batch_size = batch_for(batch_size, len(samples.x), processes)
    identity = {
        "model": network.digest,
        "data": samples.digest,
        "samples": len(samples.x),
        "domain": _plain_domain(samples.domain),
        **job.identity(),
    }
    places = _Places(None, None)
    if certificates is not None:
        identity["certificates"] = True
        _check_recordable(job, network)
        subject = samples.subject(network)
        claim = subject.claim()
        proofs = claim_folder(certificates, job.kind, identity, resume)
        prepare(proofs, claim, subject)
        places = _Places(proofs, proofs)
    if out is not None and (certificates is None or out.resolve() != certificates.resolve()):
        places = replace(places, run=claim_folder(out, job.kind, identity, resume))
    lines = _decide_all(job, network, samples, (batch_size, processes), places, progress)
    summary = {"data": samples.data, **_without(identity, "data"), "data_digest": samples.digest}
    summary |= job.summary(lines)
    if certificates is not None:
        summary["certificates"] = sum(line["status"] == "certified" for line in lines)
    summary |= {"seconds": sum(line["seconds"] for line in lines), "versions": versions()}
    if places.run is not None:
        places.run.write("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return Evaluation(lines, summary)


def write_certificates(
    folder: str | Path,
    network: StoredNetwork | ImplicitNetwork,
    x: Tensor,  # (N, r)
    labels: Tensor,  # (N,)
    eps: float,
    *,
    domain: Domain = None,
    method: Method | None = None,
    batch_size: int = 1000,
    resume: bool = False,
) -> Evaluation:
    """Certify as `certify` does, and write down what proves each certified sample.

    Example:
        >>> found = write_certificates("proofs", network, x, labels, 0.1, domain=(0.0, 1.0))
        >>> found.summary["certificates"]  # then: equicert check proofs --model FILE

    Args:
        folder: new or empty; verdicts and summary are written there, too.
        network: stored, or a module, whose present weights are then taken.
        x: points, taken as the exact rationals they are.
        labels: classes, 0..q-1.
        eps: radius in the sup-norm.
        domain: two numbers or two (r,) vectors to intersect the boxes with, or None.
        method: `Interval()` (default), `Lipschitz()` or `SignSplit()`, whose proof is a state box;
            `Dual()`, `Tightening()`, `Complete()` or `Auto()`, whose proof may be a tree, for
            piecewise-linear activations.
        batch_size: samples at a time.
        resume: whether to continue the same call where it was killed.

    Raises:
        OutputError, InputError, NotContractingError: as `evaluate_lines`.
    """
    stored = as_stored(network)
    points = stored.check_inputs(x).cpu()
    classes = check_labels(labels, len(points), stored.outputs).cpu()
    arrays = (np.ascontiguousarray(points, "<f8"), np.ascontiguousarray(classes, "<i8"))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    samples = Samples(points, classes, domain, "arrays", digest)
    job = Certification(method or Interval(), eps)
    return evaluate_lines(
        job, stored, samples, batch_size=batch_size, certificates=Path(folder), resume=resume
    )


@dataclass(frozen=True)
class _Places:
    """Where the verdicts of a run go, and where their certificates."""

    run: RunFolder | None
    proofs: RunFolder | None


def _check_recordable(job: Job, network: StoredNetwork) -> None:
    method = job.method if isinstance(job, Certification) else None
    if method is None or not method.post_fixed:
        raise InputError(
            "a certificate is a state box that passes the post-fixed-point test, or a tree of dual"
            f" bounds, and {job.kind if method is None else method.name} makes neither: certify by"
            " interval, sign-split, lipschitz without a radius bound, dual, tightening, complete or"
            " auto"
        )
    if method.trees and network.activation.slopes is None:
        raise InputError(
            f"what {method.name} certifies may rest on dual bounds, whose certificates are for"
            f" piecewise-linear activations; this network's is {network.activation.spec}: leave out"
            " --certificates, or certify by interval, sign-split or lipschitz"
        )


def _decide_all(
    job: Job,
    network: StoredNetwork,
    samples: Samples,
    batches: tuple[int, int],  # their size, and in how many processes
    places: _Places,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    batch_size, processes = batches
    with ExitStack() as stack:
        lines, sink, records = [], None, None
        if places.run is not None:
            sink = stack.enter_context(JsonLines(places.run / "verdicts.jsonl"))
            lines = read_lines(sink.path)
        if places.proofs is not None:
            records = Records(places.proofs / RECORDS, network, len(lines))
            stack.enter_context(records).require(
                _called("certified", lines), _called("falsified", lines)
            )
        # A batch that a kill cut short is done again whole: the last bits of a product depend on
        # the number of rows, and a resumed run is to write what an unbroken one does.
        index = len(lines) - len(lines) % batch_size if len(lines) < len(samples.x) else len(lines)
        rest = replace(samples, x=samples.x[index:], y=samples.y[index:])
        clock = time.perf_counter()
        for chunk in chunks_of(job, network, rest, batch_size, processes):
            each = (time.perf_counter() - clock) / len(chunk.lines)
            known = len(lines) - index
            added = [
                {"index": len(lines) + k, **fields, "seconds": each}
                for k, fields in enumerate(chunk.lines[known:])
            ]
            if records is not None and chunk.proofs is not None and chunk.eps is not None:
                labels = samples.y[index : index + len(chunk.lines)]
                boxes, others = chunk.proofs.since(known), chunk.others(known)
                records.append(index, labels, chunk.eps, boxes, others)
            if sink is not None:  # a line says certified once its certificate is in its file
                sink.extend(added)
            lines += added
            index += len(chunk.lines)
            if progress is not None:
                progress(len(lines), len(samples.x))
            clock = time.perf_counter()
    return lines


def _called(status: str, lines: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Row and label of the lines with this status."""
    return ((v["index"], v["label"]) for v in lines if v["status"] == status)


def _plain_domain(domain: Domain) -> list[Any] | None:
    return None if domain is None else [np.asarray(end).tolist() for end in domain]


def _without(items: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in items.items() if k != key}
