"""The commands of `equicert`: train, certify, bound, attack, inspect, reproduce, demo."""

from equicert.cli.main import main

__all__ = ["main"]
