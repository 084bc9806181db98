"""The command line as tests call it."""

from equicert.cli import main


def run(*words: str) -> int:
    """The exit status of `equicert WORDS`."""
    try:
        main(list(words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
