"""`python -m tests.faults --minutes 60`: trials of random seeds until the time is over.

--seed N       that seed alone, which repeats a trial as far as the machine's own timing allows
--strategy S   fedasync, fedbuff or fedavg, whatever the seed says
--folder DIR   where logs and append-only files of trials that failed are left
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import recovery
from tests.faults.driver import Trial, trial
from tests.faults.plan import STRATEGIES


def main() -> int:
    """Run trials; the exit code says whether all was well."""
    arguments = read_arguments()
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="fedelta-faults-"))
    folder.mkdir(exist_ok=True)
    deadline, done = time.monotonic() + 60 * arguments.minutes, []
    while not done or (arguments.seed is None and time.monotonic() < deadline):
        seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**9)
        made = trial(seed, folder, folder / "cache", arguments.strategy)
        show(made)
        done.append(made)
        if made.failure and arguments.until_failure:
            break
    print(f"\n{recovery.table((made.log, made.found.rows) for made in done)}\n")
    failed = [made for made in done if made.failure]
    updates = sum(len(made.found.rows) for made in done)
    num_faults = sum(len(made.log) for made in done)
    seeds = [made.plan.seed for made in failed]
    print(f"{len(done)} trials, {num_faults} faults, {updates} updates; failed: {seeds}")
    return 1 if failed else 0


def show(made: Trial) -> None:
    """A line of a trial; of one that failed, all that is needed to look into it."""
    print(made, flush=True)
    if made.failure:
        print(f"    {made.story}\n    logs: {made.folder}")
        print(f"    again: python -m tests.faults --seed {made.plan.seed}", flush=True)
    else:
        shutil.rmtree(made.folder)


def read_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--until-failure", action="store_true")
    parser.add_argument("--strategy", choices=list(STRATEGIES))
    parser.add_argument("--folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
