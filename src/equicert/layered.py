"""`LayeredNetwork`: explicit layers before and after implicit blocks, trained as one network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from equicert.assembly import assemble
from equicert.errors import InputError, ModelError
from equicert.materialised import Materialised
from equicert.network import ImplicitNetwork
from equicert.propagation import Flow, joined, through
from equicert.stored import StoredNetwork
from equicert.torch_layers import flat


class Moment(NamedTuple):
    """The network at one moment.

    Attributes:
        blocks: the operators of all implicit blocks, in their order.
        fixed: whether normalisation is by the running statistics also in training.
    """

    blocks: tuple[Materialised, ...]
    fixed: bool = False

    @property
    def without_history(self) -> Moment:
        """The same for gradients in inputs only: of a function of each of them by itself.

        Points that are searched are not those that statistics are to be of.
        """
        return Moment(tuple(block.without_history for block in self.blocks), fixed=True)


@final
class LayeredNetwork(nn.Module):
    """A `torch.nn.Sequential` with `ImplicitNetwork` blocks in it, that boxes pass through, too.

    `store()` gives the same function as one implicit network, whose W is block-triangular: its
    states are the outputs of all activations, and whatever holds for implicit networks
    (certificates, dual bounds, branching, attacks) holds for the whole of it.

    Example:
        >>> module = nn.Sequential(
        ...     nn.Unflatten(1, (1, 28, 28)),
        ...     nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        ...     nn.Flatten(), ImplicitNetwork(16 * 14 * 14, 100, 10),
        ... )
        >>> network = LayeredNetwork(module, inputs=784)
        >>> inclusion_loss(network, x, labels, eps=0.1, kappa=1.0).total.backward()
        >>> stored = network.store()

    Args:
        module: layers with known bounds (`propagation.RULES`) and implicit blocks, all with one
            activation. An implicit block or Linear ends it, and reads the outputs.
        inputs: r, the numbers of a sample; samples are rows.

    Raises:
        ModelError: a layer without a sound bound, named; another end; layers that do not fit one
            another.
    """

    def __init__(self, module: nn.Sequential, inputs: int) -> None:
        super().__init__()
        layers = [entry.module for entry in flat(module)]
        # With channels last, a training step over convolutions takes a tenth less on CPUs.
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - untyped
        self.module, self.inputs = module, inputs
        heads: list[nn.Linear] = []
        while layers and isinstance(head := layers[-1], nn.Linear):
            heads.insert(0, head)
            layers.pop()
        self._body, self._heads = layers, heads
        if not heads and not (self._body and isinstance(self._body[-1], ImplicitNetwork)):
            raise ModelError("the last layer must be an ImplicitNetwork or a Linear: it reads y")
        with self._evaluating():
            assemble(module, inputs)  # refuses what does not fit

    def forward(
        self,
        x: Tensor,  # (..., r)
    ) -> Tensor:  # (..., q)
        self._check(rows := x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1))
        y = self.read_out(self.state(rows, self.materialise()))
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @property
    def C(self) -> Tensor:  # (q, n)  # noqa: N802 - the paper's letter
        """Of the outputs, by the last states."""
        return self._head[0]

    @property
    def c(self) -> Tensor:  # (q,)
        """Of the outputs."""
        return self._head[1]

    @property
    def _head(self) -> tuple[Tensor, Tensor]:
        """The last affine layers as one."""
        heads: list[tuple[Tensor, Tensor | None]] = [(h.weight, h.bias) for h in self._heads]
        if isinstance(last := self._body[-1], ImplicitNetwork):
            heads.insert(0, (last.C, last.c))
        C, c = heads[0]
        for A, b in heads[1:]:
            C, c = A @ C, (None if c is None else A @ c)
            c = b if c is None else c if b is None else c + b
        return C, C.new_zeros(len(C)) if c is None else c

    def read_out(
        self,
        z: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, q)
        """`y = C z + c`."""
        C, c = self._head
        return torch.addmm(c, z, C.mT)

    def materialise(self) -> Moment:
        """The operators of the implicit blocks as they are now, each with its proof.

        Raises:
            NotContractingError, NotMonotoneError: it cannot be proved.
        """
        return Moment(tuple(block.materialise() for block in self._blocks()))

    def _blocks(self) -> Iterator[ImplicitNetwork]:
        return (layer for layer in self._body if isinstance(layer, ImplicitNetwork))

    def state(
        self,
        x: Tensor,  # (batch, r)
        at: Moment,
    ) -> Tensor:  # (batch, n)
        """The last states for points."""
        self._check(x)
        return self._through(Flow(x), at).middle

    def reach(
        self,
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Moment | None = None,
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """Bounds on the last states over boxes, good to the blocks' tolerances, not rounded."""
        self._check(lo, hi)
        _check_order(lo, hi)
        _, zlo, zhi = self._through(joined(None, lo, hi), at or self.materialise()).parts()
        return zlo, zhi

    def state_and_reach(
        self,
        x: Tensor,  # (batch, r)
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Moment | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n) each
        """`state(x)` and `reach(lo, hi)` at once."""
        self._check(x, lo, hi)
        _check_order(lo, hi)
        flow = self._through(joined(x, lo, hi), at or self.materialise())
        _, zlo, zhi = flow.parts()
        return flow.middle[: len(x)], zlo, zhi

    def _through(self, flow: Flow, at: Moment) -> Flow:
        with self._evaluating() if at.fixed else contextlib.nullcontext():
            return self._propagated(flow, at)

    def _propagated(self, flow: Flow, at: Moment) -> Flow:
        blocks = iter(at.blocks)
        for index, layer in enumerate(self._body, 1):
            if isinstance(layer, ImplicitNetwork):
                flow = _solved(layer, flow, next(blocks))
                if index < len(self._body):
                    flow = flow.affine(layer.read_out, lambda r, C=layer.C: r @ C.abs().mT)
            else:
                flow = through(layer, flow)
        return flow

    def store(self) -> StoredNetwork:
        """The network with exactly its present weights as one implicit network, on the CPU.

        Statistics of batch normalisation are the running ones, folded into the layers before.
        """
        with self._evaluating():
            return assemble(self.module, self.inputs)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(layer, layer.training) for layer in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for layer, training in modes:
                layer.training = training

    def _check(self, *points: Tensor) -> None:
        batch, dtype = len(points[0]), self.c.dtype
        for x in points:
            if x.ndim != 2 or x.shape[1] != self.inputs or len(x) != batch:
                found = ", ".join(str(tuple(x.shape)) for x in points)
                raise InputError(f"this network takes inputs (batch, {self.inputs}), got {found}")
            if x.dtype != dtype:
                raise InputError(
                    f"inputs are {x.dtype}, the network is {dtype}; convert one with .to(dtype)"
                )


def _check_order(lo: Tensor, hi: Tensor) -> None:
    if not bool((lo <= hi).all()):
        raise InputError("the box is inverted or NaN: its lower ends must not exceed the upper")


def _solved(block: ImplicitNetwork, flow: Flow, at: Materialised) -> Flow:
    """The states of an implicit block."""
    if flow.radius is None:
        return Flow(block.state(flow.middle, at))
    points, lo, hi = flow.parts()
    if points is None:
        return joined(None, *block.reach(lo, hi, at))
    return joined(*block.state_and_reach(points, lo, hi, at))
