"""The error that a person can put right."""

# Exit status of a program that was asked for what cannot be done.
USAGE = 2


class InputError(ValueError):
    """What was asked for cannot be done; the message says why and what to do."""
