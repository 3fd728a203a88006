"""Errors that a user can fix. Each message is one line that can be shown as it is."""


class UserError(ValueError):
    """Base of the errors below. The message is one line: the value, what was expected and what to do."""


class InputError(UserError):
    """Training was given an option, a data set, a model to continue or a folder that it cannot use."""


class StepFolderError(UserError):
    """A step folder, or a file of it such as `results.json`, is incomplete, damaged or inconsistent."""


class PublishError(UserError):
    """
    The Hub, the token or the state of the repository does not allow to publish.

    Args:
        message (`str`): one line for the user.
        transient (`bool`, *optional*, defaults to `False`): whether the same may succeed a little later, as after a
            failure of the network.
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
    """
    The message to end a script with: the last line, or the type of the error where it has no message. An error of a
    worker process carries its traceback, which ends with its type and message.
    """
    lines = str(error).strip().splitlines()
    kind = type(error)
    return lines[-1].removeprefix(f"{kind.__module__}.{kind.__name__}: ") if lines else kind.__name__
