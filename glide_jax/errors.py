"""The one exception for what a user can cause and mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend: one line with what was given, the rule, the remedy.

    The command line prints it without a traceback and exits with status 2.
    """
