class UserError(Exception):
    """A problem that the user can fix: the commands print it as one line and exit with status 2."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
