"""The errors of Attar: each message says the rule, what came, and what to do."""

__all__ = ["AttarError", "DataError", "FormatError", "RecipeError", "SurgeryError", "TraceError"]


class AttarError(Exception):
    """A user's mistake, or something in the user's world that stops us; the message is one line to act on."""


class DataError(AttarError):
    """A data set that is missing, empty, malformed, or used for two purposes at once."""


class FormatError(AttarError):
    """A file that is truncated, corrupted, hostile, or from a newer version."""


class RecipeError(AttarError):
    """A recipe that cannot run; all its faults are listed together."""


class TraceError(AttarError):
    """A network whose graph cannot be had, with the reason."""


class SurgeryError(AttarError):
    """A cut that cannot be made, or whose result is not the network it came from; the network is as it was."""
