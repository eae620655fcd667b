"""`python -m unreel.cli` is `unreel`."""

from unreel.cli import main

main()
