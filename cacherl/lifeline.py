"""A process that lives no longer than its parent, however the parent ends: it reads a pipe that only the parent holds open.

The parent starts it with `stdin=PIPE` and an option that says so; when the pipe closes, the process tells itself to stop.
"""

import os
import signal
import sys
import threading


def follow_stdin() -> None:
    """Sends this process SIGTERM once its standard input ends."""

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
