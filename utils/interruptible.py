"""Imported by the programs before all else: Ctrl-C during their imports, which take seconds, ends them with one line.

From then on ``conf.app.run`` sees to that.
"""

import os
import sys
from types import TracebackType


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("Interrupted.", file=sys.stderr, flush=True)
    os._exit(130)  # the interpreter's own end would be one by the signal


sys.excepthook = _tell
