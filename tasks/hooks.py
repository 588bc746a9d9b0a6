"""Exact moments at which a test lets a process die or stand still; where none is named, nothing happens.

    FEDELTA_FAULT="kill commit.before 3"    killed by SIGKILL when it is there for the third time

moment               the process is
train.received       a site's, with an order's message taken from its queue, and no lease
train.taken          a site's, with a lease, before it reads the model
train.trained        a site's, with a delta that nobody else has
train.stored         a site's, whose delta is stored and whose call was made
evaluate.scored      a site's, with a score that nobody else has
aggregate.draining   the coordinator's, with one submission folded in, and nothing written
commit.before        whose turn it is, with everything decided and nothing written
commit.after         whose turn it is, with everything written and no message sent
"""

import itertools
import os
import signal

from tasks import environment
from workers.errors import SettingsError

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
MOMENTS = (
    *("train.received", "train.taken", "train.trained", "train.stored", "evaluate.scored"),
    *("aggregate.draining", "commit.before", "commit.after"),
)


def reached(moment: str) -> None:
    """The process is at this moment; if it is the one that the environment names, it ends or stops here."""
    if _FAULT is not None and moment == _FAULT[1] and next(_passages) == _FAULT[2]:
        os.kill(os.getpid(), _FAULT[0])


def _read(written: str | None) -> tuple[signal.Signals, str, int] | None:
    if written is None:
        return None
    action, moment, number = (*written.split(), "1", "", "")[:3]
    if action not in SIGNALS or moment not in MOMENTS or not number.isdecimal():
        raise SettingsError(
            f"FEDELTA_FAULT: expected '<kill|stop> <moment> [<number>]', with one of the moments "
            f"{', '.join(MOMENTS)}, got {written!r}"
        )
    return SIGNALS[action], moment, int(number)


_FAULT = _read(environment.fault())
_passages = itertools.count(1)
