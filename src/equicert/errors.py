"""Exceptions. Each message is one line: what was asked, what was found, what to do.

Callers who want to handle everything that equicert raises catch `EquicertError`. Errors about a
value that the caller supplied are also `ValueError`; errors about an output folder are `OSError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EquicertError(Exception):
    """Base of every exception that equicert raises on purpose."""


class InputError(EquicertError, ValueError):
    """A value from the caller that cannot be used: eps, labels, boxes, points, shapes."""


class DataError(InputError):
    """A data set that is missing, damaged or inconsistent."""


class ModelError(InputError):
    """A model whose tensors, activation or file cannot be used."""


class ConfigError(InputError):
    """An option or configuration key that is unknown or out of range."""


class OutputError(EquicertError, OSError):
    """An output folder that cannot be written or belongs to another run."""


class RoundingError(EquicertError):
    """The machine's arithmetic is not the arithmetic that the rounding bounds assume."""


class MissingExtraError(EquicertError, ImportError):
    """A method whose solver is an optional extra that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} need {package}, which is not installed; run: pip install 'equicert[{extra}]'"
        )


class TooLargeError(EquicertError):
    """A method that factorises W as a full matrix, asked of a structured W of very many states."""

    def __init__(self, what: str, states: int, most: int) -> None:
        self.known = f"it has {states} states, more than the {most} that are factorised"
        super().__init__(
            f"{what} would factorise W as a full matrix of {states} x {states}, not done for"
            f" more than {most} states; interval, lipschitz, dual and complete bounds need none"
        )


class NotContractingError(EquicertError):
    """No positive eta with mu_{inf,[eta]^-1}(W) < 1 exists or could be proved."""

    def __init__(self, mu: float, row: int, detail: str = "") -> None:
        self.mu, self.row, self.detail = mu, row, detail
        super().__init__(
            f"the network is not proved contracting: mu(W) = {mu:.6g} >= 1 at row {row} at the best"
            f" eta found{detail}; lower gamma, or train with the contracting parametrisation"
        )


class RowSumError(EquicertError):
    """A bound that needs ||W||_inf < 1, asked of a W that has not."""

    def __init__(self, norm: float, row: int) -> None:
        self.norm, self.row, self.known = norm, row, f"needs ||W||_inf < 1, which is {norm:.6g}"
        super().__init__(
            f"the bound of [EG21] needs ||W||_inf < 1, and row {row} of W sums to {norm:.6g}; use"
            " the derived or the weighted bound"
        )


class NotMonotoneError(EquicertError):
    """No diagonal Lambda > 0 with sym(Lambda (I - W)) > 0 was proved: 1 and the hint were tried."""

    def __init__(self, mu: float) -> None:
        self.mu, self.known = mu, f"mu_2(W) = {mu:.6g}"
        super().__init__(
            f"the network is not proved monotone: {self.known} >= 1 at the best Lambda known;"
            " train with the monotone parametrisation, or store the Lambda that serves"
        )


class NotConvergedError(EquicertError):
    """A solver that did not reach its tolerance on every sample."""

    def __init__(self, what: str, failed: int, batch: int, radius: float, detail: str) -> None:
        self.failed, self.batch, self.radius = failed, batch, radius
        super().__init__(
            f"{what}: {failed} of {batch} samples missed the tolerance (worst error radius"
            f" {radius:.3g}); {detail}"
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause "; did you mean 'relu'? (known: ...)" for messages about unknown names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{hint} (known: {', '.join(names)})"
