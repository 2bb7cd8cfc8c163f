"""What ends one target or one row, and never the whole run."""


class BenchError(Exception):
    """A target could not be started, or a measurement could not be made; the message is shown in the table."""
