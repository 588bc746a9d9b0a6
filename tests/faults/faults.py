"""What is done to a study: each a function of it and of random numbers, which lasts as long as the fault."""

import random
import signal
import time
from collections.abc import Callable, Mapping

from tasks import hooks
from tasks.site_ledger import LEASE
from tests.faults.parties import Party
from tests.faults.study import Study

Fault = Callable[[Study, random.Random], None]

SITE_MOMENTS = ("train.received", "train.taken", "train.trained", "train.stored", "evaluate.scored")
CENTRE_MOMENTS = ("aggregate.draining", "commit.before", "commit.after")
assert set(SITE_MOMENTS) | set(CENTRE_MOMENTS) <= set(hooks.MOMENTS)
PATIENCE = 40.0  # seconds until a moment that does not come is given up


# A site's worker


def kill_worker(study: Study, rng: random.Random) -> None:
    """`kill -9`, wherever it is."""
    site = a_site(study, rng)
    with study.fault("kill worker", site, site):
        study.party(site).kill()


def kill_worker_again_and_again(study: Study, rng: random.Random) -> None:
    """`kill -9`, and its successors, too, soon after they have started."""
    site = a_site(study, rng)
    with study.fault("kill worker again and again", site, site):
        for _ in range(rng.randint(2, 4)):
            study.party(site).kill()
            study.pause(rng.uniform(2.0, 6.0))


def kill_worker_there(study: Study, rng: random.Random, moment: str | None = None) -> None:
    """`kill -9` at an exact moment."""
    site, moment = a_site(study, rng), moment or rng.choice(SITE_MOMENTS)
    end_there(study, study.party(site), moment, rng.randint(1, 4), site)


def stop_worker(
    study: Study, rng: random.Random, moment: str | None = None, replaced: bool | None = None
) -> None:
    """It stands still past its lease, at an exact moment or at any; perhaps another takes its place."""
    site = a_site(study, rng)
    party = study.party(site)
    replaced = rng.random() < 0.5 if replaced is None else replaced
    seconds = rng.uniform(LEASE + 1, LEASE + 10)
    moment = moment or rng.choice([None, *SITE_MOMENTS[1:3]])
    if moment is None:
        party.signal(signal.SIGSTOP)
    elif not reach(study, party, f"stop {moment} {rng.randint(1, 3)}", lambda: party.is_stopped):
        return
    detail = f"{site} at {moment or 'any moment'}{', replaced' if replaced else ''}"
    with study.fault("stop worker", detail, site):
        other = study.start_worker(site, f"{site}+{time.monotonic_ns()}") if replaced else None
        study.pause(seconds)
        party.signal(signal.SIGCONT)
    if other is not None:
        study.pause(rng.uniform(1.0, 5.0))
        leave(other)


def site_leaves(study: Study, rng: random.Random) -> None:
    """It is killed at work, and never comes back; its lease ends, and people are told."""
    if study.gone:
        return  # one is enough: a quorum is to remain
    site = a_site(study, rng)
    study.gone.add(site)
    study.pause_until(lambda: study.holder(site), 5.0)  # best in the middle of its work
    with study.fault("site leaves", site, site, is_lasting=True):
        for party in study.workers(site):
            leave(party)


def other_software(study: Study, rng: random.Random, kind: str | None = None) -> None:
    """It comes back with other software; after a while, perhaps, with ours again."""
    site, kind = a_site(study, rng), kind or rng.choice(["software", "shapes", "format"])
    with study.fault("other software", f"{site}: {kind}", site, is_lasting=kind != "software"):
        ours = study.party(site)
        leave(ours)
        study.pause(rng.uniform(0.0, 2.0))
        theirs = study.start_worker(site, f"{site}+{kind}", kind)
        study.pause(rng.uniform(6.0, 15.0))
        leave(theirs)
        if site not in study.gone:
            ours.is_wanted = True


def site_joins(study: Study, rng: random.Random) -> None:
    """One that was not there at the beginning."""
    site = study.plan.late
    if site is not None and site not in study.keeper.parties:
        with study.fault("site joins", site, site):
            study.start_worker(site)


# The coordinator, beat, the command line


def kill_coordinator(study: Study, rng: random.Random) -> None:
    """`kill -9`, wherever it is."""
    party = rng.choice(study.coordinators())
    with study.fault("kill coordinator", party.name):
        party.kill()


def kill_coordinator_there(study: Study, rng: random.Random, moment: str | None = None) -> None:
    """`kill -9` at an exact moment."""
    party, moment = rng.choice(study.coordinators()), moment or rng.choice(CENTRE_MOMENTS)
    end_there(study, party, moment, rng.randint(1, 5))


def stop_coordinator(study: Study, rng: random.Random, moment: str | None = None) -> None:
    """It stands still between reading and writing, while another goes on; then it wakes up."""
    party = study.party("coordinator1")
    moment = moment or rng.choice(CENTRE_MOMENTS)
    if not reach(study, party, f"stop {moment} {rng.randint(1, 5)}", lambda: party.is_stopped):
        return
    with study.fault("stop coordinator", f"{party.name} at {moment}"):
        other = study.start_coordinator(f"coordinator+{time.monotonic_ns()}")
        study.pause(rng.uniform(5.0, 12.0))
        party.signal(signal.SIGCONT)
    study.pause(rng.uniform(0.0, 5.0))
    leave(other)


def second_coordinator(study: Study, rng: random.Random) -> None:
    """By mistake, for a while."""
    with study.fault("second coordinator"):
        other = study.start_coordinator(f"coordinator+{time.monotonic_ns()}")
        study.pause(rng.uniform(5.0, 15.0))
        leave(other)


def kill_beat(study: Study, rng: random.Random) -> None:
    """`kill -9` of the clock; where it is a thread, of the coordinator."""
    party = study.keeper.parties.get("beat") or rng.choice(study.coordinators())
    with study.fault("kill beat", party.name):
        party.kill()


def kill_cli(study: Study, rng: random.Random) -> None:
    """`kill -9` of the command line."""
    with study.fault("kill cli"):
        study.party("cli").kill()


# Redis, and the way to it


def kill_redis(study: Study, rng: random.Random) -> None:
    """`kill -9`; it is started again with its append-only file."""
    with study.redis, study.fault("kill redis"):
        study.server.kill()
        study.server.await_answer()


def power_failure(study: Study, rng: random.Random) -> None:
    """It dies and has forgotten up to its last second, from any byte on: `everysec` promises no more."""
    begin = study.server.num_bytes
    study.pause(rng.uniform(0.2, 1.0))
    lost = int((study.server.num_bytes - begin) * rng.random())
    with study.redis, study.fault("power failure", f"{lost} bytes lost"):
        study.server.power_failure(lost)
        study.server.await_answer()


def freeze_redis(study: Study, rng: random.Random) -> None:
    """It stands still for some seconds, and goes on."""
    with study.redis, study.fault("freeze redis"):
        study.server.signal(signal.SIGSTOP)
        time.sleep(rng.uniform(1.0, 8.0))
        study.server.signal(signal.SIGCONT)


def redis_unreachable(study: Study, rng: random.Random, seconds: float | None = None) -> None:
    """From everywhere, for up to 30 s."""
    seconds = seconds or rng.choice([3.0, 10.0, 30.0])
    how = rng.choice(["cut", "mute", "mute and forget"])
    with study.fault("redis unreachable", f"{how}, {seconds:g} s"):
        for link in study.links():
            link.cut() if how == "cut" else link.mute()
        time.sleep(seconds)
        for link in study.links():
            link.open(forgets="forget" in how)


def cut_site(study: Study, rng: random.Random) -> None:
    """One site's connections: reset once, or cut or dumb for a while."""
    site, seconds = a_site(study, rng), rng.choice([0.5, 3.0, LEASE + 5.0])
    how = rng.choice(["reset", "cut", "mute", "mute and forget"])
    link = study.link(site)
    with study.fault("connection of a site", f"{site}: {how}, {seconds:g} s", site):
        if how == "reset":
            link.reset()
            return
        link.cut() if how == "cut" else link.mute()
        study.pause(seconds)
        link.open(forgets="forget" in how)


def reset_centre(study: Study, rng: random.Random) -> None:
    """The coordinator's, beat's and command line's connections, reset or dumb for a while."""
    link, seconds = study.link("centre"), rng.choice([0.0, 2.0, 8.0])
    with study.fault("connections of the centre", f"{seconds:g} s"):
        link.cut() if rng.random() < 0.5 else link.mute()
        study.pause(seconds)
        link.open(forgets=True)


def full_redis(study: Study, rng: random.Random) -> None:
    """Nothing can be written for some seconds."""
    with study.redis, study.fault("full redis"):
        study.client.config_set("maxmemory", int(study.client.info("memory")["used_memory"] * 0.9))
        time.sleep(rng.uniform(1.0, 8.0))
        study.client.config_set("maxmemory", 0)


# Messages


def lose_message(study: Study, rng: random.Random) -> None:
    """One is deleted from its queue before anybody has it."""
    queue, site = a_queue(study, rng)
    if steal(study, queue):
        with study.fault("message lost", queue, site):
            pass


def deliver_three_times(study: Study, rng: random.Random) -> None:
    """One comes three times."""
    queue, site = a_queue(study, rng)
    if message := steal(study, queue):
        with study.fault("message three times", queue, site):
            study.client.lpush(queue, *[message] * 3)


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(kill_worker, kill_worker_again_and_again, kill_worker_there, stop_worker, site_leaves),
        *(other_software, kill_coordinator, kill_coordinator_there, stop_coordinator, second_coordinator),
        *(kill_beat, kill_cli, kill_redis, power_failure, freeze_redis, redis_unreachable, cut_site),
        *(reset_centre, full_redis, lose_message, deliver_three_times),
    )
}


def a_site(study: Study, rng: random.Random) -> str:
    """One that has joined and has not left."""
    return rng.choice(study.present_sites())


def a_queue(study: Study, rng: random.Random) -> tuple[str, str | None]:
    """Some party's, and the site whose it is."""
    site = rng.choice([None, *study.present_sites()])
    return (f"site.{site}", site) if site else ("coordinator", None)


def leave(party: Party) -> None:
    """End it, and start it no more."""
    party.is_wanted = False
    party.kill()


def end_there(study: Study, party: Party, moment: str, number: int, site: str | None = None) -> None:
    """Have the party killed when it is at the moment for the nth time after a new start."""
    before = party.incarnations

    def is_dead() -> bool:
        return party.incarnations > before + 1 or (party.incarnations > before and party.pid is None)

    if reach(study, party, f"kill {moment} {number}", is_dead):
        with study.fault(f"kill at {moment}", party.name, site):
            pass


def reach(study: Study, party: Party, fault: str, is_there: Callable[[], bool]) -> bool:
    """Start the party anew with this fault in its environment, and wait until it is there.

    False if that moment did not come; it then runs without.
    """
    party.once = {"FEDELTA_FAULT": fault}
    party.kill()
    if study.pause_until(is_there, PATIENCE):
        return True
    party.once = {}
    party.kill()
    return False


def steal(study: Study, queue: str) -> bytes | None:
    """Take the next message from a queue before its worker does."""
    taken = study.client.brpop([queue], timeout=4)
    return taken[1] if taken else None
