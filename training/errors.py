"""The error for anything a user can put right."""


class InputError(ValueError):
    """Bad input. The message is one line: it names the value, what was expected and what to do."""
