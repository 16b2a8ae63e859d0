"""Errors that reach the user, and the exit codes they lead to."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the BIDS Apps execution specification, version 1.0 draft."""

    DONE = 0
    SCANS_FAILED = 1
    INVALID_BIDS = 16
    UNKNOWN_LEVEL = 17
    NOTHING_MATCHED = 18
    USAGE = 64
    BAD_DATA = 65
    NO_INPUT = 66
    CANNOT_WRITE = 73


class AlsMriError(Exception):
    """An error whose text is meant for the user.

    Parameters
    ----------
    message : str
        What was found, what was expected, where, and what to do.
    exit_code : ExitCode, optional
        Overrides the class's own code where the specification knows a narrower one.
    """

    exit_code: ExitCode = ExitCode.SCANS_FAILED

    def __init__(self, message: str, *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class SettingsError(AlsMriError):
    """What was asked for cannot be done."""

    exit_code = ExitCode.USAGE


class DataError(AlsMriError):
    """What was found is not what the method needs."""

    exit_code = ExitCode.BAD_DATA


class NumericsError(AlsMriError):
    """What cannot be computed from the arrays given."""

    exit_code = ExitCode.BAD_DATA


class RunError(AlsMriError):
    """What failed while running."""

    exit_code = ExitCode.SCANS_FAILED


class StopRequest(KeyboardInterrupt):
    """A signal that asks the run to stop: Ctrl-C, the end of a job's time, ``docker stop``.

    Parameters
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number
