"""What losses ask of a network that is being trained."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Trainable(Protocol):
    """A network whose states and boxes of states can be differentiated.

    What `materialise` returns holds for the weights of one moment, and is handed back.
    """

    @property
    def C(self) -> Tensor:  # (q, n)  # noqa: N802 - the paper's letter
        """Of the read-out `y = C z + c`."""
        ...

    @property
    def c(self) -> Tensor:  # (q,)
        """Of the read-out."""
        ...

    def materialise(self) -> Any:
        """The operators as they are now."""
        ...

    def state(
        self,
        x: Tensor,  # (batch, r)
        at: Any,
    ) -> Tensor:  # (batch, n)
        """The states that outputs are read from."""
        ...

    def reach(
        self,
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Any = None,
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """Bounds on them over boxes."""
        ...

    def state_and_reach(
        self,
        x: Tensor,  # (batch, r)
        lo: Tensor,  # (batch, r)
        hi: Tensor,  # (batch, r)
        at: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n) each
        """Both at once."""
        ...

    def read_out(
        self,
        z: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, q)
        """`y = C z + c`."""
        ...
