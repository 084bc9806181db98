"""The commands `equicert train`, `certify`, `bound`, `attack`, `inspect` and `demo`."""

from equicert.cli.main import main

__all__ = ["main"]
