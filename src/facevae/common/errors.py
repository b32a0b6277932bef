"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """Something that the user can put right; the message says what is wrong, where, and what to do.

    A message may have several lines, one per mistake. Stages print it without a traceback and
    exit with status 2.
    """


class StoppedError(Exception):
    """Work stopped because it was asked to, and can be gone on with; the message says where."""
