"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do.

    Entry points print the message alone, without a traceback, and exit with status 2 (``utils.app``).
    """


def ended_from_outside(error: Exception) -> UserError | None:
    """What to tell the user of PyTorch's error about a worker that the system ended; None for any other error.

    The signal of a process that ends interrupts the main one wherever that is: in the loader or far from it.
    """
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker"):
        return None
    return UserError(
        f"A process that reads pictures was ended from outside, often for want of memory ({error}). "
        "Try fewer: loader.num_workers=1, or 0 to read in the main process."
    )
