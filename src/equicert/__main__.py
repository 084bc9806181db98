"""`python -m equicert`."""

from equicert.cli import main

main()
