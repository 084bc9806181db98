"""The certificate that the options of `equicert certify` name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equicert.cli.options import CertifyOptions
from equicert.errors import InputError

if TYPE_CHECKING:
    from equicert.bounds import Method

_AT_POINT = ("--bound", "--per-margin")  # of certificates that speak of a radius about x


def method_of(options: CertifyOptions, per_margin: bool, local: bool) -> Method:
    """The certificate; a setting that it does not have is refused, for it would be ignored."""
    from equicert import bounds
    from equicert.lipschitz import BOUNDS

    given = {"--bound": options.bound is not None, "--per-margin": per_margin, "--local": local}
    match options.method, options.bound:
        case "lipschitz", None:
            used, method = ("--local",), bounds.Lipschitz(local)
        case "lipschitz", str() as name if name in BOUNDS:
            used, method = _AT_POINT, bounds.LipschitzRadius(BOUNDS[name], per_margin)
        case "spectral", "lmi":
            used, method = ("--bound",), bounds.SpectralLmi()
        case "spectral", "printed":
            used, method = _AT_POINT, bounds.SpectralAtPoint(per_margin)
        case _:
            plain: dict[str, type[Method]] = {
                "interval": bounds.Interval,
                "lipschitz": bounds.Lipschitz,
                "sign-split": bounds.SignSplit,
                "spectral": bounds.Spectral,
                "semidefinite": bounds.Semidefinite,
                "dual": bounds.Dual,
            }
            searching = _searching(options)
            used, method = (), searching or plain[options.method]()
    for name, present in given.items():
        if present and name not in used:
            raise InputError(
                f"{name} is not a setting of this certificate, {method.name}: --method lipschitz"
                " takes --local, or --bound weighted, row-sum or derived and with it --per-margin;"
                " --method spectral takes --bound lmi, or printed and with it --per-margin"
            )
    return method


def _searching(options: CertifyOptions) -> Method | None:
    """The method with a time limit, if that is what is asked for."""
    from equicert import bounds

    kinds = {"tightening": bounds.Tightening, "complete": bounds.Complete, "auto": bounds.Auto}
    times = {"--timeout": options.timeout, "--total-timeout": options.total_timeout}
    for name, seconds in times.items():
        if seconds is not None and not seconds > 0:
            raise InputError(f"{name} must be a positive number of seconds, got {seconds!r}")
        if seconds is not None and options.method not in kinds:
            raise InputError(
                f"{name} is a setting of --method tightening, complete and auto, which search;"
                f" {options.method} takes the time that it takes"
            )
    if options.method not in kinds:
        return None
    timeout = 60.0 if options.timeout is None else options.timeout
    return kinds[options.method](timeout, options.total_timeout)
