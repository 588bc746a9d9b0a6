"""Users of a running Redis and what they may do, compared with what they should be: pure functions."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from orchestrator import findings
from orchestrator.findings import Finding
from tasks import keys
from tasks.app import COORDINATOR_QUEUE, site_queue

Command: TypeAlias = tuple[str, ...]
Categories: TypeAlias = Mapping[str, Sequence[str]]  # by category of commands, those in it

EXPERIMENT = "spot-check"  # need not exist: a rule is about names
# What clients say of themselves when they connect to Redis 7.2 or newer; 7.0 takes no rule that names it.
HARMLESS = ("client|setinfo",)
# What a rule begins with, and Redis's listing therefore has or has not.
_SILENT = {"user", "resetpass", "resetchannels", "resetkeys", "sanitize-payload"}


def of_users(written: Sequence[str], there: Sequence[str], categories: Categories) -> Iterator[Finding]:
    """Whether Redis's users are those of users.acl: the lines of the file, and of ACL LIST.

    Redis words a rule anew, with categories of commands in it.
    """
    ours, theirs = _by_user(written), _by_user(there)
    start_anew = "start Redis anew, which reads the file"
    for user in sorted(theirs.keys() - ours.keys()):
        found = f"{user} is in Redis, but not in users.acl"
        yield Finding(mark="unsafe", check="users", found=found, advice=start_anew)
    for user in sorted(ours.keys() - theirs.keys()):
        found = f"{user} is in users.acl, but not in Redis"
        yield Finding(mark="warning", check="users", found=found, advice=start_anew)
    other = [
        user
        for user in sorted(ours.keys() & theirs.keys())
        if _rule(ours[user], categories) != _rule(theirs[user], categories)
    ]
    for user in other:
        found = f"{user} has another password, or may do something else, in Redis than in users.acl"
        yield Finding(mark="unsafe", check="users", found=found, advice=start_anew)
    if not other and ours.keys() == theirs.keys():
        yield Finding(mark="ok", check="users", found=f"{len(ours)} in Redis, the same as in users.acl")


def of_acl_file(text: str, expected: str) -> Finding:
    """Whether users.acl is what fedelta writes for these users."""
    changed = [
        line.split()[1]
        for line in text.splitlines()
        if len(line.split()) > 1 and line not in expected.splitlines()
    ]
    mistake = f"not as this fedelta writes it, for {', '.join(changed)}" if changed else ""
    advice = "if nobody changed it on purpose, fedelta is newer: add or remove any site, which writes it anew"
    return findings.of_fact("users.acl", "as fedelta writes it", mistake, advice, "warning")


def of_default(there: Sequence[str]) -> Finding:
    """Whether the user that one is without a name is off: the lines of ACL LIST."""
    line = _by_user(there).get("default", "")
    is_off = "off" in line.split()
    mistake = "" if is_off else "enabled" + (" without a password" if "nopass" in line.split() else "")
    return findings.of_fact("default user", "off", mistake, "turn it off in Redis's ACL file")


# What turns write; Redis's append-only file has each turn as a transaction.
WRITES: list[Command] = [
    *(("SET", keys.head(EXPERIMENT), "x"), ("DEL", keys.head(EXPERIMENT)), ("XADD", "x", "*", "row", "x")),
    *(("HSET", "x", "x", "x"), ("SADD", "x", "x"), ("SREM", "x", "x"), ("RPUSH", "x", "x")),
    *(("LTRIM", "x", "0", "1"), ("PEXPIREAT", "x", "1"), ("RENAME", "x", "y"), ("PERSIST", "x")),
]


def of_replay(may: Mapping[Command, bool]) -> Finding:
    """Whether Redis will carry out what it wrote down, when it starts anew: `default` may do `WRITES`.

    It reads its file as the user `default`, and leaves out of a transaction what that user may not do, even
    where it is off (https://github.com/redis/redis/issues/14541).
    """
    denied = sorted(command[0] for command in WRITES if not may[command])
    return findings.of_fact(
        "restart",
        "Redis may carry out all that is in its append-only file",
        f"Redis will leave {', '.join(denied)} of every transaction out: experiments are lost"
        if denied
        else "",
        "before it restarts, allow default, which stays off, ~* +@write: in users.acl, and by ACL SETUSER",
    )


def own_work(site: str) -> list[Command]:
    """What a site must be able to do."""
    delta = keys.delta(EXPERIMENT, site)
    unfinished = keys.unfinished(delta, "0")
    return [
        ("GET", keys.spec(EXPERIMENT)),
        *(("GETRANGE", keys.model(EXPERIMENT, 0), "0", "0"), ("HGET", keys.model(EXPERIMENT, 0), "0")),
        ("GET", keys.order(EXPERIMENT, site)),
        ("SET", keys.lease(EXPERIMENT, site), "x"),
        *(("SET", delta, "x"), ("HSET", unfinished, "0", "x"), ("EXPIRE", unfinished, "1")),
        *(("HSTRLEN", unfinished, "0"), ("WATCH", unfinished), ("DEL", unfinished)),
        *(("RENAME", unfinished, delta), ("PERSIST", delta)),
        ("XADD", keys.evaluations(EXPERIMENT, site), "*", "row", "x"),
        ("RPUSH", keys.inbox(EXPERIMENT), site),
        ("SET", keys.site(site), "x"),
        ("PUBLISH", keys.bell(site), "x"),
        ("BRPOP", site_queue(site), "1"),
    ]


def no_business(site: str, neighbours: Sequence[str]) -> list[Command]:
    """What a site must not be able to do; also not to those whose names are nearly its own."""
    head, inbox = keys.head(EXPERIMENT), keys.inbox(EXPERIMENT)
    model, delta = keys.model(EXPERIMENT, 0), keys.delta(EXPERIMENT, site)
    unfinished = keys.unfinished(delta, "0")
    commands: list[Command] = [
        *(("KEYS", "*"), ("SCAN", "0"), ("FLUSHALL",), ("EVAL", "return 1", "0"), ("ACL", "LIST")),
        *(("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("MONITOR",), ("SHUTDOWN",)),
        *(("HGETALL", head), ("HSET", head, "version", "9"), ("LRANGE", inbox, "0", "-1"), ("LPOP", inbox)),
        *(("SET", model, "x"), ("HSET", model, "0", "x"), ("SET", keys.order(EXPERIMENT, site), "x")),
        *(("LPUSH", COORDINATOR_QUEUE, "x"), ("SUBSCRIBE", keys.WORK), ("GET", delta), ("HGET", delta, "0")),
        *(("RENAME", unfinished, model), ("RENAME", delta, unfinished), ("HGET", unfinished, "0")),
    ]
    for other in (f"x{site}", f"{site}x", *neighbours):
        commands += [
            *(("LPUSH", site_queue(other), "x"), ("BRPOP", site_queue(other), "1")),
            *(("GET", keys.delta(EXPERIMENT, other)), ("SET", keys.delta(EXPERIMENT, other), "x")),
            *(("RENAME", unfinished, keys.delta(EXPERIMENT, other)),),
            *(("HSET", keys.unfinished(keys.delta(EXPERIMENT, other), "0"), "0", "x"),),
            *(("GET", keys.order(EXPERIMENT, other)), ("SET", keys.lease(EXPERIMENT, other), "x")),
            *(("PUBLISH", keys.bell(other), "x"), ("SUBSCRIBE", keys.bell(other))),
        ]
    return commands


def of_site(site: str, may: Mapping[Command, bool], neighbours: Sequence[str]) -> Finding:
    """Whether a site may do its own work and nothing else."""
    check = f"rules of {site}"
    own, foreign = own_work(site), no_business(site, neighbours)
    allowed = [_shown(command) for command in foreign if may[command]]
    if allowed:
        found, advice = (
            f"it may {', '.join(allowed)}",
            "start Redis anew, or remove the site and add it again",
        )
        return Finding(mark="unsafe", check=check, found=found, advice=advice)
    denied = [_shown(command) for command in own if not may[command]]
    return findings.of_fact(
        check,
        f"{len(own)} commands of its own work are allowed, and {len(foreign)} others are not",
        f"it may not {', '.join(denied)}, which its work needs" if denied else "",
        "start Redis anew, or remove the site and add it again",
        "warning",
    )


def of_denials(entries: Sequence[Mapping[str, object]], known: Sequence[str]) -> Iterator[Finding]:
    """What was refused lately, of ACL LOG; a name that is no user's is not shown, it can be anything."""
    counts: Counter[tuple[str, str]] = Counter()
    lost = 0
    for entry in entries:
        info = entry.get("client-info")
        info = info if isinstance(info, Mapping) else {}
        # Redis says what was refused in a transaction, or for its key, in different places.
        command = entry.get("object") if entry.get("reason") == "command" else info.get("cmd")
        times = int(str(entry.get("count", 1)))
        if str(info.get("fd")) == "-1":  # nobody's connection: its append-only file
            lost += times
            continue
        if command in HARMLESS:
            continue
        user = str(entry["username"])
        shown = user if user in known else "a name that is no user's"
        counts[shown, re.sub(r"[^a-z|]", "", str(command).lower())[:40]] += times
    if lost:
        found = f"when Redis started, it left out {lost} commands of its append-only file: data are lost"
        yield Finding(mark="unsafe", check="restart", found=found, advice="restore a backup")
    if not counts:
        yield Finding(mark="ok", check="denials", found="nothing was refused to anybody lately")
    for (user, command), count in sorted(counts.items()):
        found, advice = f"{user}: {command} refused, {count} times", "ask whoever that is what they tried"
        yield Finding(mark="warning", check="denials", found=found, advice=advice)


def _by_user(lines: Sequence[str]) -> dict[str, str]:
    """By user, the line of an ACL file or listing."""
    return {line.split()[1]: line for line in lines if line.startswith("user ")}


def categories_in(lines: Sequence[str]) -> list[str]:
    """Categories of commands that these lines name."""
    return sorted({name for line in lines for name in re.findall(r"[+-]@(\w+)", line)} - {"all"})


def _rule(line: str, categories: Categories) -> set[tuple[frozenset[str], frozenset[str]]]:
    """What a line says, however it is written: for the user and each selector, commands and the rest."""
    selectors = re.findall(r"\([^)]*\)", line)
    parts = [re.sub(r"\([^)]*\)", "", line), *selectors]
    words = [part.strip("()").split() for part in parts]
    return {(_commands(part, categories), frozenset(_others(part))) for part in words}


def _commands(words: Sequence[str], categories: Categories) -> frozenset[str]:
    """The commands that these words allow; each word adds some or takes some away."""
    allowed: set[str] = set()
    for word in words:
        if word in ("-@all", "nocommands"):
            allowed.clear()
        elif word[0] in "+-":
            named = set(categories.get(word[2:], ())) if word[1] == "@" else {word[1:]}
            allowed = allowed | (named or {word}) if word[0] == "+" else allowed - named
    return frozenset(allowed)


def _others(words: Sequence[str]) -> Iterator[str]:
    """Everything but the commands: passwords' hashes, patterns of keys and channels, flags."""
    return (word for word in words if word[0] not in "+-" and word not in _SILENT)


def _shown(command: Command) -> str:
    return " ".join(command[:2])
