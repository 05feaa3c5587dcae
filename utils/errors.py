"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do.

    Entry points print the message alone, without a traceback, and exit with status 2 (``utils.app``).
    """
