"""How a run on this machine is doing and what came of it: the host's view of the ledger."""

import redis

from orchestrator import control, results
from orchestrator.runs import Run
from tasks import progress
from tasks.app import connect
from workers.errors import NotFound, Unavailable


def phase(run: Run) -> str:
    """The experiment's phase: "" before it is submitted, "unknown" while Redis is being started again."""
    try:
        return progress.read(connect(), run.name, num_rows=1).head.phase
    except NotFound:
        return ""
    except (redis.RedisError, Unavailable):
        return "unknown"


def resume(run: Run) -> None:
    """Go on with the run's experiment, which was stopped."""
    control.resume(connect(), run.name)


def write(run: Run) -> bool:
    """Write the run's tables, model and summary; whether it came to its own end."""
    return results.write(connect(), run) == "completed"


def report(run: Run) -> None:
    """Write the run's report and pictures."""
    results.report(run)
