"""The error for anything a user can put right, and errors of others on one line."""


class InputError(ValueError):
    """Bad input. The message is one line: it names the value, what was expected and what to do."""


def one_line(error: Exception) -> str:
    """The whole message of an error on one line."""
    return " ".join(str(error).split())


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none: some messages go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def last_message(error: Exception) -> str:
    """The message to end a script with. An error of a worker process comes with its traceback, the message last."""
    return str(error).splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
