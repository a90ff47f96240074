"""The one exception that carries a message for the user."""


class GenesisError(Exception):
    """Bad input or state that the user can mend.

    The message names the file or key, what was expected, what was found, and what to do. Commands and trainers
    print it without a traceback and exit with status 1.
    """
