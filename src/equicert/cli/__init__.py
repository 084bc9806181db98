"""The commands of `equicert`: train, certify, check, bound, attack, inspect, reproduce, demo."""

from equicert.cli.main import main

__all__ = ["main"]
