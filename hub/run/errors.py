"""The errors of the publishing wing: one line each, fit to be shown to a user as they are."""


class UserError(ValueError):
    """Base of the errors below: its message is one line that says what is wrong and what to do."""


class StepFolderError(UserError):
    """A step folder or its `results.json` is not what it should be."""


class PublishError(UserError):
    """
    The Hub, the token or the state of the repository does not allow to publish.

    Args:
        message: One line for the user.
        transient: Whether the same may succeed a little later, as after a failure of the network.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class InputError(UserError):
    """Bad input to training. The message is one line: it names the value, what was expected and what to do."""


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
