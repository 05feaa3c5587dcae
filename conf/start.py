"""Imported by the programs before all else, since their other imports take seconds.

In these Ctrl-C ends them with one line (from then on ``conf.app.run`` sees to that); help, and mistakes in names, are
told before them.
"""

import os
import sys
from types import TracebackType

import conf.threads  # noqa: F401
from conf import early


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("Interrupted.", file=sys.stderr, flush=True)
    os._exit(130)  # the interpreter's own end would be one by the signal


sys.excepthook = _tell
early.look()
