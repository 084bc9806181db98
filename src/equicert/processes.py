"""A job's batches in several processes, their results in order."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch

from equicert.certify_run import Certification
from equicert.errors import EquicertError, InputError
from equicert.jobs import Chunk, Job, Samples
from equicert.stored import StoredNetwork

_AHEAD = 2  # batches a process that wait
_ROUNDS = 4  # batches a process, at least, so that none is left with the hard ones


def batch_for(batch_size: int, samples: int, processes: int) -> int:
    """A batch size by which every process has something to do.

    Raises:
        InputError: processes is not positive.
    """
    if processes < 1:
        raise InputError(f"processes must be at least 1, got {processes}")
    if processes == 1:
        return batch_size
    return max(1, min(batch_size, math.ceil(samples / (_ROUNDS * processes))))


def chunks_of(
    job: Job, network: StoredNetwork, samples: Samples, batch_size: int, processes: int
) -> Iterator[Chunk]:
    """What the job finds of each batch, in their order, whoever finds it.

    Raises:
        InputError: several processes for something else than certification.
        EquicertError: a process ended before its work was done.
    """
    if not len(samples.x):
        return
    if processes == 1:
        yield from job.chunks(network, samples, batch_size)
        return
    if not isinstance(job, Certification):
        raise InputError(f"{job.kind} works in one process")
    given = pickle.dumps((job, network, samples.domain, samples.data, samples.digest))
    total = job.method.total
    deadline = math.inf if total is None else time.monotonic() + total
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, (given, deadline)) as pool:
        waiting = deque[Future[bytes]]()
        try:
            for x, y in zip(samples.x.split(batch_size), samples.y.split(batch_size), strict=True):
                waiting.append(pool.submit(_decide, x.numpy(), y.numpy()))
                if len(waiting) > _AHEAD * processes:
                    yield pickle.loads(waiting.popleft().result())  # noqa: S301 - our own
            while waiting:
                yield pickle.loads(waiting.popleft().result())  # noqa: S301 - our own
        except BrokenProcessPool as error:
            raise EquicertError(
                "a process ended before its work was done, killed or out of memory; use fewer"
                " --processes, and --resume"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_Work = tuple[Certification, StoredNetwork, Samples, float]
_shared: dict[str, _Work] = {}  # of a worker: one entry


def _begin(given: bytes, deadline: float) -> None:
    """Once a process: what all its batches share."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    job, network, domain, data, digest = pickle.loads(given)  # noqa: S301 - our own
    nothing = torch.zeros(0)
    about = Samples(nothing, nothing, domain, data, digest)
    _shared["work"] = job, network, about, deadline


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decide(x: object, y: object) -> bytes:
    """One batch; pickled here, since torch would share its tensors by open files."""
    job, network, about, deadline = _shared["work"]
    points, labels = torch.as_tensor(x), torch.as_tensor(y)
    samples = replace(about, x=points, y=labels)
    (chunk,) = job.by(deadline).chunks(network, samples, len(points))
    return pickle.dumps(chunk)
