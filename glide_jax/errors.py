"""The exceptions for what a user can cause and mend, each with its exit code."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend: one line with what was given, the rule, the remedy.

    The command line prints it without a traceback and exits with `exit_code`, which is
    one of `lifecycle.ExitCode`.
    """

    exit_code = 2


class NoCheckpointError(UserError):
    """Checkpoints are there and none of them is good: nothing may start over."""

    exit_code = 3


class DivergedError(UserError):
    """The numbers of a run went wrong, and its policy gave up."""

    exit_code = 4
