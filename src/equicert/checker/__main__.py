"""`python -m equicert.checker`, or `python -I -S src/equicert/checker` without installing."""

import sys
from pathlib import Path


def _run() -> int:
    if not __package__:  # run as a folder: sys.path[0] is that folder, make it the one of equicert
        sys.path[0] = str(Path(__file__).resolve().parents[2])
    from equicert.checker.command import main

    return main()


if __name__ == "__main__":
    sys.exit(_run())
