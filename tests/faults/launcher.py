"""A site's worker that is not as it should be: `python -m tests.faults.launcher KIND SITE`.

clock:+3600   its clock is an hour ahead, for Python at least; used where there is no libfaketime
software      it is another release, which is none the worse for it
shapes        ... whose model of that name has one more column, so it can neither read nor write ours
format        ... which speaks another format
"""

import runpy
import sys
import time


def main(kind: str, site: str) -> None:
    """Become the worker."""
    name, _, amount = kind.partition(":")
    if name == "clock":
        _set_clock(float(amount))
    else:
        _be_other_software(name)
    from orchestrator import children  # not before the clock is set

    command = children.worker([site])
    sys.argv = command[2:]
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


def _set_clock(seconds_off: float) -> None:
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + seconds_off
    time.time_ns = lambda: true_ns() + int(seconds_off * 1e9)


def _be_other_software(kind: str) -> None:
    from tasks import messages, presence
    from workers.models import LogisticRegression

    presence.SOFTWARE = f"fedelta 0.0.0-{kind}"
    if kind == "shapes":
        init = LogisticRegression.init
        LogisticRegression.init = lambda self, rng, features, outputs: init(self, rng, features + 1, outputs)
    elif kind == "format":
        messages.FORMAT = 2


if __name__ == "__main__":
    main(*sys.argv[1:])
