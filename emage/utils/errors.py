"""InputError, the error whose message is meant for the user, and the end of a program with it."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from emage.utils.redact import redact


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, and what to do.

    Programs print it without a stack trace and exit with code 2; nothing has been written when it is raised.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message; its type, if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, its beginning if it is long; its type, if it has none."""
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """End the program if the block raises an InputError: with its line on stderr, without secrets, and exit code 2."""
    try:
        yield
    except InputError as error:
        cause = getattr(error, "cause", error)  # Ray's error of a task is an InputError as well, with its stack trace
        print(redact(f"error: {cause}"), file=sys.stderr)
        sys.exit(2)
