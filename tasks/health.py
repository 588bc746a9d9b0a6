"""Whether a process is at work, for whoever looks after its container: a file that it touches.

It is touched when the process has just talked to Redis: a worker when it announced its site, a coordinator
when it looked after its experiments, a beat when it sent a tick.
"""

import logging

from tasks import environment

logger = logging.getLogger(__name__)


def say_so() -> None:
    """This process is at work, now; nothing where nobody asked for the file."""
    path = environment.alive_file()
    if path is None:
        return
    try:
        path.touch()
    except OSError as error:  # worth a line, and not the work
        logger.warning("FEDELTA_ALIVE_FILE: %s cannot be touched: %s", path, error.strerror)
