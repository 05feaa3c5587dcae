"""The exceptions that end a program with a message instead of a traceback (``conf.app``)."""

import signal


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do. The exit status is 2."""


class Halted(UserError):
    """One that ends a process in the middle of a step, where the others of a run on several devices wait for it."""


class Stopped(KeyboardInterrupt):
    """A signal ends the program as Ctrl-C does, but with everything saved.

    Args:
        number: the signal's; entry points exit with status 128 + number, as a shell has it.
        message: what was saved, and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)  # both, so that it can be sent to another process
        self.status = 128 + number

    def __str__(self) -> str:
        number, message = self.args
        return f"{signal.Signals(number).name}: {message}"
