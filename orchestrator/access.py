"""Who may do what in the centre's Redis: an ACL rule for each user, as Redis 7 reads them.

user          who                      may
default       nobody                   nothing: it is off
admin         the person at the centre change users, look at the server; no data at all
coordinator   the coordinator, beat    what is fedelta's, every queue, Celery's events
operator      the command line         what is fedelta's, and put messages into queues
flower        Flower                   look, count what waits in queues, and Celery's events
site.<name>   one hospital             its own work (`site`), which is what `tasks.site_ledger` does

A rule is a root part and selectors in brackets; a command is allowed if one of them allows it with all its
keys. What is not named is forbidden: above all EVAL, SCRIPT, KEYS, SCAN, FLUSHALL, CONFIG, MIGRATE, DEBUG.
"""

import hashlib
from collections.abc import Mapping

from tasks import keys
from tasks.app import COORDINATOR_QUEUE, SITE_QUEUE_PREFIX, site_queue

ADMIN, COORDINATOR, OPERATOR, FLOWER = "admin", "coordinator", "operator", "flower"

_NOBODY = "user default off sanitize-payload resetchannels -@all"
_START = "resetchannels -@all +hello +auth +ping +select +reset +client|setname +client|id"
_TRANSACTION = "+multi +exec +discard +unwatch"
_EVENTS = "/0.celeryev*"
_EVENT_KEYS = "~_kombu.binding.celeryev ~celeryev*"

_READ = "+get +mget +getrange +strlen +exists +hgetall +smembers +sismember +lrange +xrange +xrevrange +time"
_WRITE = "+set +del +hset +sadd +srem +rpush +ltrim +xadd +watch"


def rules() -> dict[str, str]:
    """By user, what the centre's own may do."""
    data, queues = "~fedelta:*", f"~{COORDINATOR_QUEUE} ~{SITE_QUEUE_PREFIX}*"
    return {
        ADMIN: f"{_START} +acl +info +time +client|list +client|kill +config|get",
        COORDINATOR: (
            f"{_START} {_TRANSACTION} {_READ} {_WRITE} {data} "
            f"(-@all +lpush +rpush +llen +brpop +rpop {queues}) "
            f"(-@all +psubscribe +subscribe +punsubscribe +unsubscribe &{keys.bell('*')}) "
            f"(-@all +publish &{_EVENTS}) (-@all +sadd +smembers ~_kombu.binding.celeryev)"
        ),
        OPERATOR: (
            f"{_START} {_TRANSACTION} {_READ} {_WRITE} {data} (-@all +lpush +llen {queues}) "
            f"(-@all +publish &{_EVENTS}) (-@all +sadd +smembers ~_kombu.binding.celeryev)"
        ),
        FLOWER: (
            f"{_START} {_TRANSACTION} {_READ} %R~fedelta:* "
            f"(-@all +llen {queues}) "
            f"(-@all +psubscribe +subscribe +punsubscribe +unsubscribe &{_EVENTS} &{keys.bell('*')}) "
            f"(-@all +publish &{_EVENTS}) "
            f"(-@all +sadd +srem +smembers +del +llen +exists {_EVENT_KEYS})"
        ),
    }


def site(name: str) -> str:
    """What one hospital may do.

    Every key ends in its name, whole, so that `a` cannot reach what belongs to `ab`; `*` is an experiment.
    """
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
    readable = (keys.spec(any_experiment), model_of_any(), own["order"], own["lease"])
    return " ".join(
        (
            f"{_START} {_TRANSACTION} +time",
            f"(-@all +get +mget +watch {' '.join(f'%R~{key}' for key in readable)})",
            f"(-@all +exists %W~{own['delta']})",  # whether it is there, not what it says
            f"(-@all +set +del %W~{own['lease']} %W~{own['delta']} %W~{keys.site(name)})",
            f"(-@all +xadd %W~{own['evaluations']})",
            f"(-@all +rpush %W~{keys.inbox(any_experiment)})",
            f"(-@all +publish &{keys.bell(name)})",
            f"(-@all +brpop +llen +lpush ~{site_queue(name)})",
        )
    )


def model_of_any() -> str:
    """Pattern of the keys of all models."""
    return keys.model("*", 0).removesuffix("0") + "*"


def site_user(name: str) -> str:
    """A hospital's user."""
    return f"site.{name}"


def hashed(password: str) -> str:
    """A password as the ACL file holds it; it has 256 random bits, so that a plain hash keeps it."""
    return hashlib.sha256(password.encode()).hexdigest()


def acl_file(password_hashes: Mapping[str, str]) -> str:
    """The text of Redis's ACL file, with these users and the hashes of their passwords."""
    own = rules()
    lines = [_NOBODY]
    for user, password_hash in password_hashes.items():
        rule = own[user] if user in own else site(user.removeprefix("site."))
        lines.append(f"user {user} on sanitize-payload #{password_hash} {rule}")
    return "\n".join(lines) + "\n"
