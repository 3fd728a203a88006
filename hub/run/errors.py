"""The errors that a user can put right: one line each, fit to be shown as they are."""


class UserError(ValueError):
    """Base of the errors below. The message is one line: the value, what was expected and what to do."""


class InputError(UserError):
    """Bad input to training: an option, a data set, a model to continue, or a folder."""


class StepFolderError(UserError):
    """A step folder or its `results.json` is not what it should be."""


class PublishError(UserError):
    """
    The Hub, the token or the state of the repository does not allow to publish.

    Args:
        message (`str`): one line for the user.
        transient (`bool`): whether the same may succeed a little later, as after a failure of the network.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def one_line(error: BaseException) -> str:
    """The whole message of an error on one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none: some messages are pages long."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def last_message(error: BaseException) -> str:
    """The message to end a script with. An error of a worker process comes with its traceback, the message last."""
    return str(error).splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
