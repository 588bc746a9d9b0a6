"""Whether a process is at work, for whoever looks after its container: a file that it touches.

It is touched when the process has just talked to Redis: a worker when it announced its site, a coordinator
when it looked after its experiments.
"""

import time

from tasks import environment

FRESH_SECONDS = 30


def say_so() -> None:
    """This process is at work, now; nothing where nobody asked for the file."""
    if path := environment.alive_file():
        path.touch()


def is_fresh() -> bool:
    """Whether a process that touches the file was at work a moment ago."""
    path = environment.alive_file()
    try:
        return path is not None and time.time() - path.stat().st_mtime < FRESH_SECONDS
    except FileNotFoundError:
        return False
