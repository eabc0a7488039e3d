"""The error that a person can put right."""


class InputError(ValueError):
    """What was asked for cannot be done; the message says why and what to do."""
