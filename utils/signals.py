"""Signals that ask a run to end, or to save and go on."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

TO_SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none
TO_STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """While it is entered, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 are noted for the loop to act on; a second SIGINT ends
    the program at once.

    Attributes:
        stop: the number of the signal to end after, or None.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self._save = self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (*TO_STOP, TO_SAVE) if number}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> int | None:
        """The number of the signal that has come, one to end before SIGUSR1; that is forgotten once it is told."""
        save, self._save = self._save, False
        return self.stop or (TO_SAVE if save else None)

    def until_stopped(self, action: Callable[[], Any]) -> Any:
        """What ``action`` returns; None if a signal to end has come, which ends it wherever it is."""
        try:
            self._at_once = True
            return None if self.stop else action()
        except _CutShort:
            return None
        finally:
            self._at_once = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == TO_SAVE:
            self._save = True
            return
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.stop is None:
            self.stop = number
            name, again = signal.Signals(number).name, " Once more, and it ends at once." * (number == signal.SIGINT)
            # Not print(): the signal may have come in the middle of one.
            os.write(2, f"\n{name}: finishing the step, then saving.{again}\n".encode())
        if self._at_once:
            raise _CutShort


class _CutShort(BaseException):  # no `except Exception` on the way is meant to keep it
    pass
