"""The exceptions for what a user can cause and mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend: one line with what was given, the rule, the remedy.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class PeerLostError(UserError):
    """Another process did not come, or is gone; started again it may be there."""

    exit_code = 134


class NoCheckpointError(UserError):
    """There are checkpoints, and none of them is good."""

    exit_code = 3


class DivergedError(UserError):
    """Numbers went wrong, and what was tried against it did not help."""

    exit_code = 4
