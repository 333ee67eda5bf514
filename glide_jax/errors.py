"""Exceptions for errors that a user can cause and fix."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can fix: one line with the value given, the rule, the remedy.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class PeerLostError(UserError):
    """Another process did not connect, or has exited; a restart may succeed."""

    exit_code = 134


class DeviceFailedError(UserError):
    """A device failed in the middle of a run; a restart may succeed."""

    exit_code = 136


class NoCheckpointError(UserError):
    """Checkpoints exist, but none of them is valid."""

    exit_code = 3


class DivergedError(UserError):
    """Training diverged, and the recovery attempts failed."""

    exit_code = 4
