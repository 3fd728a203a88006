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
