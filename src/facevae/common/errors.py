"""Exceptions whose messages are written for the user."""


class UserError(Exception):
    """A mistake that the user can correct; the message says what is wrong, where, and what to do.

    A message may have several lines, one per mistake. Stages print it without a traceback and
    exit with status 2.
    """


class StoppedError(Exception):
    """Work stopped on request and can be resumed; the message says where it stopped."""
