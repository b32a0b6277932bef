"""Exceptions whose messages are written for the user."""


class UserError(Exception):
    """A mistake that the user can correct; the message says what is wrong, where, and what to do.

    A message may have several lines, one per mistake. Stages print it without a traceback and
    exit with status 2. In its text, whatever controls a terminal is written as an escape: a path
    may hold anything.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


def printable(text: str) -> str:
    """The text in one line, with escapes such as \\n and \\x1b for what is not printable."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class StoppedError(Exception):
    """Work stopped on request and can be resumed; the message says where it stopped."""
