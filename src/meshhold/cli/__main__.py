"""Lets `python -m meshhold.cli` be the program where no console script is installed."""

from meshhold.cli.main import main

main()
