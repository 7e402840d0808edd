"""The one exception that is a message to the person at the keyboard."""


class InputError(ValueError):
    """Bad input: the text says in one line what is wrong and what to do.

    Pipelines print it without a stack trace and exit with code 2; nothing has been written when it is raised.
    """
