"""The commands of `equicert`: train, certify, check, bound, attack, inspect, zoo, ...."""

from equicert.cli.main import main

__all__ = ["main"]
