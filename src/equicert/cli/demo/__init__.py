"""`equicert demo`: train on digits, certify, attack, and leave a page that tells of it."""

from equicert.cli.demo.command import run_demo

__all__ = ["run_demo"]
