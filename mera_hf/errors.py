"""The one error that users cause and can fix."""


class InputError(ValueError):
    """Bad input: the message names the argument or the file and row, the bad value and the fix.

    The command line prints it on standard error and ends with exit status 2.
    """
