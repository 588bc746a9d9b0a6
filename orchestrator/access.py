"""Who may do what in the centre's Redis: an ACL rule for each user, as Redis 7 reads them.

user          who                      may
default       nobody                   come in: it is off
admin         the person at the centre change users, look at the server; no data at all
coordinator   the coordinator, beat    what is fedelta's, every queue, hear the sites
operator      the command line         what is fedelta's, and put messages into queues
flower        Flower                   look, count what waits in queues, hear the sites
site.<name>   one hospital             its own work (`site`), which is what `tasks.site_ledger` does

A rule is a root part and selectors in brackets; a command is allowed if one of them allows it with all its
keys. What is not named is forbidden: above all EVAL, SCRIPT, KEYS, SCAN, FLUSHALL, CONFIG, MIGRATE, DEBUG.
"""

import hashlib
import re
from collections.abc import Mapping

import redis
from pydantic import TypeAdapter, ValidationError

from tasks import keys
from tasks.app import COORDINATOR_QUEUE, SITE_QUEUE_PREFIX, site_queue
from workers.errors import SettingsError
from workers.settings import Name, explain

ADMIN, COORDINATOR, OPERATOR, FLOWER = "admin", "coordinator", "operator", "flower"

# Off and without a password, so nobody can be it. Its rights are what Redis itself has when it reads its
# append-only file again: without them, Redis 7.0 leaves out every transaction in it.
_NOBODY = "user default off resetpass sanitize-payload ~* &* +@all"
# AUTH, HELLO, RESET and QUIT are anybody's. Only database 0 is used, so nobody needs SELECT.
_START = "resetchannels -@all +ping"
_TRANSACTION = "+multi +exec +unwatch"

_LOOK = "+get +mget +getrange +exists +hgetall +smembers +xrevrange +time"
_READ = f"{_LOOK} +hget +lrange +llen +xrange"
_WRITE = "+set +del +hset +hstrlen +expire +rename +persist +sadd +srem +xadd +watch"
_DRAIN = "+strlen +sismember +rpush +ltrim"  # what only who reads submissions does


def rules() -> dict[str, str]:
    """By user, what the centre's own may do."""
    data, queues = "~fedelta:*", f"~{COORDINATOR_QUEUE} ~{SITE_QUEUE_PREFIX}*"
    return {
        ADMIN: f"{_START} +acl +info +time +client|list +client|kill +config|get",
        COORDINATOR: (
            f"{_START} {_TRANSACTION} {_READ} {_WRITE} {_DRAIN} {data} "
            f"(-@all +lpush +llen +brpop {queues}) "
            f"(-@all +psubscribe &{keys.bell('*')}) "
            f"(-@all +publish &{keys.WORK})"
        ),
        OPERATOR: (f"{_START} {_TRANSACTION} {_READ} {_WRITE} {data} (-@all +lpush +llen {queues})"),
        FLOWER: (
            f"{_START} {_TRANSACTION} {_LOOK} {_shown()} "
            f"(-@all +llen {queues}) "
            f"(-@all +psubscribe &{keys.bell('*')} &{keys.WORK})"
        ),
    }


def _shown() -> str:
    """Patterns of the keys that `tasks.progress.read` reads: no model, no delta."""
    of_experiments = (keys.spec, keys.head, keys.sites, keys.history, keys.metrics, keys.events)
    shown = [keys.EXPERIMENTS, keys.COORDINATOR, keys.site("*"), keys.lease("*", "*")]
    return " ".join(f"%R~{key}" for key in (*shown, *(key("*") for key in of_experiments)))


def site(name: str) -> str:
    """What one hospital may do.

    Every key ends in its name, whole, so that `a` cannot reach what belongs to `ab`; `*` is an experiment, or
    the id of an upload.

    Raises:
        SettingsError: it is no site's name.
    """
    check_site(name)
    any_experiment = "*"
    own = {
        kind: key(any_experiment, name)
        for kind, key in {
            "order": keys.order,
            "lease": keys.lease,
            "delta": keys.delta,
            "evaluations": keys.evaluations,
        }.items()
    }
    readable = (keys.spec(any_experiment), own["order"], own["lease"])
    unfinished = keys.unfinished(own["delta"], "*")
    return " ".join(
        (
            f"{_START} {_TRANSACTION} +time",
            f"(-@all +get {' '.join(f'%R~{key}' for key in readable)})",
            f"(-@all +getrange +hget %R~{model_of_any()})",
            f"(-@all +mget +watch %R~{own['order']} %R~{own['lease']})",
            f"(-@all +exists %W~{own['delta']})",  # whether it is there, not what it says
            f"(-@all +set %W~{own['lease']} %W~{own['delta']} %W~{keys.site(name)})",
            f"(-@all +del %W~{own['lease']} %W~{unfinished})",
            f"(-@all +hset +expire +hstrlen +watch %W~{unfinished})",
            f"(-@all +rename ~{unfinished} %W~{own['delta']})",
            f"(-@all +persist %W~{own['delta']})",
            f"(-@all +xadd %W~{own['evaluations']})",
            f"(-@all +rpush %W~{keys.inbox(any_experiment)})",
            f"(-@all +publish &{keys.bell(name)})",
            f"(-@all +brpop +llen +lpush ~{site_queue(name)})",
        )
    )


def model_of_any() -> str:
    """Pattern of the keys of all models."""
    return keys.model("*", 0).removesuffix("0") + "*"


def check_site(name: str) -> None:
    """Refuse what is not a site's name.

    Raises:
        SettingsError: it is none; a name is part of keys and patterns, so nothing else may be in one.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise SettingsError(f"site {explain(error, name)[0]}") from error


def put_user(admin: redis.Redis, user: str, password_hash: str) -> None:
    """Make or replace a user of a running Redis."""
    # A selector is one argument, whatever it has in its brackets.
    parts = re.findall(r"\([^)]*\)|\S+", rule(user))
    admin.execute_command(
        "ACL", "SETUSER", user, "reset", "on", "sanitize-payload", f"#{password_hash}", *parts
    )


def rule(user: str) -> str:
    """What a user may do.

    Raises:
        SettingsError: it is neither one of the centre's own nor a site's.
    """
    own = rules()
    if user in own:
        return own[user]
    name = user.removeprefix(site_user(""))
    if site_user(name) != user:
        raise SettingsError(f"expected {', '.join(own)} or {site_user('<name>')} as a user, got {user!r}")
    return site(name)


def site_user(name: str) -> str:
    """A hospital's user."""
    return f"site.{name}"


def hashed(password: str) -> str:
    """A password as the ACL file holds it; it has 256 random bits, so that a plain hash keeps it."""
    return hashlib.sha256(password.encode()).hexdigest()


def acl_file(password_hashes: Mapping[str, str]) -> str:
    """The text of Redis's ACL file, with these users and the hashes of their passwords.

    Raises:
        SettingsError: one is no user's name or no hash, so that it could be a rule of its own.
    """
    lines = [_NOBODY]
    for user, password_hash in password_hashes.items():
        if not re.fullmatch(r"[0-9a-f]{64}", password_hash):
            raise SettingsError(f"user {user}: expected the password's SHA-256 as 64 hexadecimal digits")
        lines.append(f"user {user} on sanitize-payload #{password_hash} {rule(user)}")
    return "\n".join(lines) + "\n"
