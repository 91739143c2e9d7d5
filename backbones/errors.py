class UserError(Exception):
    """A problem that the user can fix: the commands print it as one line and exit with status 2."""
