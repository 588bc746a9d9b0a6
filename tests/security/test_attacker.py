"""An attacker with the credentials of hospital `a` tries everything; `a`'s own worker still works."""

import itertools
import os
import shlex
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import redis
from pydantic import TypeAdapter, ValidationError
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ExecAbortError, NoPermissionError
from redis.retry import Retry

from orchestrator import access, children
from tasks import aggregate, codec, keys, progress, snapshot, values
from tasks.app import COORDINATOR_QUEUE, site_queue
from tasks.bell import Call
from tasks.dispatch import follow
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, make_spec, submit
from tests.machine import wait_until
from tests.security.conftest import SITES, TESTER, acting_as, begin
from tests.security.trial import (
    ATTACKER,
    CENTRAL,
    HOSTILE_CALLS,
    MINE,
    SHARED,
    as_people_look,
    belongings,
    everything,
    hospital,
)
from workers.errors import SettingsError
from workers.settings import Name

# What Celery would use by default, and the channels.
CELERY = [
    *("unacked", "unacked_index", "unacked_mutex", "_kombu.binding.celeryev", "_kombu.binding.coordinator"),
    *("_kombu.binding.celery.pidbox", "_kombu.binding.site.a", "/0.celery.pidbox", "/0.celeryev"),
    *("/0.celeryev/task.sent", "celeryev.1", "celery", "celery.pidbox", "__keyspace@0__:x"),
]
CHANNELS = [*map(keys.bell, ("a", "ab", "b", "*")), "fedelta:bell", keys.WORK]


PLACES = [
    *(place for site in SITES for place in belongings(site).values()),
    *CENTRAL.values(),
    *SHARED.values(),
    *CELERY,
    *CHANNELS,
    "anything",
]

# Nobody can be kept from these four: Redis checks no rule for them.
ALWAYS = {"auth", "hello", "quit", "reset"}
TRANSACTION = {"multi", "exec", "unwatch"}

SITE_MAY = {
    MINE["order"]: {"get", "mget", "watch"},
    MINE["lease"]: {"get", "mget", "watch", "set", "del"},
    MINE["delta"]: {"exists", "set", "persist"},
    MINE["unfinished"]: {"hset", "expire", "hstrlen", "watch", "del", "rename"},
    MINE["evaluations"]: {"xadd"},
    MINE["announcement"]: {"set"},
    MINE["queue"]: {"brpop", "llen", "lpush"},
    MINE["bell"]: {"publish"},
    SHARED["spec"]: {"get"},
    SHARED["model"]: {"getrange", "hget"},
    SHARED["inbox"]: {"rpush"},
}
SITE_MAY_ANYWHERE = {*ALWAYS, *TRANSACTION, "ping", "time"}

LEDGER = [place for place in PLACES if place.startswith("fedelta:")]  # channels, too, were they keys
QUEUES = [COORDINATOR_QUEUE, *map(site_queue, SITES)]
LOOK = {"get", "mget", "getrange", "exists", "hgetall", "smembers", "xrevrange"}
READ = {*LOOK, "hget", "lrange", "llen", "xrange"}
WRITE = {"set", "del", "hset", "hstrlen", "expire", "rename", "persist", "sadd", "srem", "xadd", "watch"}
DRAIN = {"strlen", "sismember", "rpush", "ltrim"}


@pytest.fixture
def attacker(trial):
    """Tries a command as hospital `a`, on a connection of its own."""
    with redis.Redis.from_url(trial.url(ATTACKER)) as client:
        yield client


# --- single commands ---------------------------------------------------------------------------------------


# What is tried on each key (or queue, or channel) that is not the attacker's; {lease} and so on are its own.
ON_A_KEY = """
    GET {key}; GETDEL {key}; GETEX {key} EX 1; GETRANGE {key} 0 -1; STRLEN {key}; EXISTS {key}
    WATCH {key}; TYPE {key}; TTL {key}; DUMP {key}; OBJECT ENCODING {key}; OBJECT FREQ {key}
    MEMORY USAGE {key}; TOUCH {key}; MGET {lease} {key}; MGET {key} {order}; SORT {key}; SORT_RO {key}
    LCS {order} {key}; HSCAN {key} 0; HGETALL {key}; HKEYS {key}; HGET {key} version; SMEMBERS {key}
    SSCAN {key} 0; LRANGE {key} 0 -1; LLEN {key}; XRANGE {key} - +; XREVRANGE {key} + -; XLEN {key}
    XREAD STREAMS {key} 0; XINFO STREAM {key}; LINDEX {key} 0; XREAD STREAMS {evaluations} {key} 0 0
    XREADGROUP GROUP g c STREAMS {key} >; SINTERCARD 2 {key} {key}; SET {key} x; SET {key} x GET
    SETEX {key} 1 x; SETNX {key} x; GETSET {key} x; MSET {lease} x {key} x; MSETNX {key} x
    APPEND {key} x; SETRANGE {key} 0 x; SETBIT {key} 0 1; INCR {key}; BITFIELD {key} SET u8 0 1
    BITOP NOT {delta} {key}; BITOP NOT {key} {delta}; DEL {key}; DEL {lease} {key}; UNLINK {key}
    PERSIST {key}; EXPIRE {key} 0; PEXPIREAT {key} 0; RENAME {key} {delta}; RENAME {delta} {key}
    RENAMENX {queue} {key}; COPY {key} {delta}; COPY {delta} {key} REPLACE; MOVE {key} 1
    RESTORE {key} 0 x REPLACE; HSET {key} version 9; HINCRBY {key} version 1; HDEL {key} version
    SADD {key} x; SREM {key} trial; SMOVE {key} {key} trial; SUNIONSTORE {delta} {key}; ZADD {key} 1 x
    PFADD {key} x; PFMERGE {delta} {key}; GEOADD {key} 1 1 x; XADD {key} * row x; XDEL {key} 0-1
    XTRIM {key} MAXLEN 0; XSETID {key} 9-9; XGROUP CREATE {key} g 0 MKSTREAM; LPUSH {key} x
    RPUSH {key} x; LPUSHX {key} x; LPOP {key}; RPOP {key}; LSET {key} 0 x; LTRIM {key} 1 0
    LREM {key} 0 x; LINSERT {key} BEFORE x x; BRPOP {key} 1; BLPOP {key} 1; BRPOP {queue} {key} 1
    LMPOP 1 {key} LEFT; BLMPOP 1 1 {key} LEFT; RPOPLPUSH {key} {queue}; RPOPLPUSH {queue} {key}
    BRPOPLPUSH {queue} {key} 1; LMOVE {key} {queue} LEFT LEFT; LMOVE {queue} {key} LEFT LEFT
    BLMOVE {queue} {key} LEFT LEFT 1; SORT {queue} STORE {key}; SORT {queue} BY nosort GET {key}
    PUBLISH {key} x; SPUBLISH {key} x; SUBSCRIBE {key}; PSUBSCRIBE {key}; SSUBSCRIBE {key}
"""
ON_THE_SERVER = """
    EVAL "return redis.call('KEYS', '*')" 0; EVAL_RO "return 1" 0
    EVAL "return redis.call('GET', KEYS[1])" 1 {order}
    EVALSHA da39a3ee5e6b4b0d3255bfef95601890afd80709 0
    EVALSHA_RO da39a3ee5e6b4b0d3255bfef95601890afd80709 0; SCRIPT LOAD "return 1"; SCRIPT FLUSH
    SCRIPT KILL; SCRIPT EXISTS x; SCRIPT DEBUG YES; FUNCTION LOAD "#!lua name=x"; FUNCTION FLUSH
    FUNCTION LIST; FUNCTION DUMP; FUNCTION RESTORE x; FUNCTION STATS; FCALL x 0; FCALL_RO x 0; KEYS *
    SCAN 0; RANDOMKEY; DBSIZE; FLUSHALL; FLUSHDB; SWAPDB 0 1; SELECT 0; SELECT 1; CONFIG GET *
    CONFIG SET dir /tmp; CONFIG REWRITE; CONFIG RESETSTAT; MIGRATE 127.0.0.1 1 {delta} 0 1
    REPLICAOF 127.0.0.1 1; SLAVEOF NO ONE; PSYNC ? -1; SYNC; REPLCONF listening-port 1; FAILOVER; ROLE
    WAIT 0 1; DEBUG SLEEP 0; DEBUG SEGFAULT; DEBUG JMAP; SHUTDOWN NOSAVE; MONITOR; INFO; LOLWUT; ECHO x
    DISCARD; ACL WHOAMI; ACL LIST; ACL USERS; ACL GETUSER site.a; ACL SETUSER site.a +@all
    ACL DELUSER site.b; ACL LOAD; ACL SAVE; ACL LOG; ACL LOG RESET; ACL CAT; ACL GENPASS
    ACL DRYRUN site.b PING; ACL HELP; CLIENT LIST; CLIENT INFO; CLIENT ID; CLIENT GETNAME
    CLIENT SETNAME x; CLIENT KILL TYPE normal; CLIENT PAUSE 1; CLIENT UNPAUSE; CLIENT NO-EVICT ON
    CLIENT TRACKING ON BCAST; CLIENT CACHING YES; CLIENT REPLY OFF; CLIENT UNBLOCK 1; CLIENT GETREDIR
    CLIENT TRACKINGINFO; CLIENT HELP; MODULE LIST; MODULE LOAD /tmp/x.so; MODULE LOADEX /tmp/x.so
    MODULE UNLOAD x; SAVE; BGSAVE; BGREWRITEAOF; LASTSAVE; SLOWLOG GET; SLOWLOG RESET; LATENCY LATEST
    LATENCY RESET; MEMORY DOCTOR; MEMORY PURGE; MEMORY STATS; CLUSTER INFO; CLUSTER NODES; READONLY
    READWRITE; ASKING; PUBSUB CHANNELS; PUBSUB NUMPAT; PUBSUB NUMSUB x; COMMAND; COMMAND COUNT
    COMMAND DOCS; PFDEBUG ENCODING x; PFSELFTEST; SUBSCRIBE x; PSUBSCRIBE *; UNSUBSCRIBE
    SET {delta} x GET; SET {lease} x GET; SETRANGE {delta} 536870911 x; APPEND {delta} x; GET {delta}
    DEL {delta}; DEL {announcement}; EXPIRE {delta} 1; PFMERGE {delta} {delta}
    XTRIM {evaluations} MAXLEN 0; DEL {queue}; XRANGE {evaluations} - +; DEL {evaluations}
    SUBSCRIBE {bell}; PSUBSCRIBE {bell}; SPUBLISH {bell} x
"""
# Channels as they could be mistaken for the attacker's own.
MISTAKABLE = [
    "fedelta:bell:",
    "fedelta:bell:a:",
    "fedelta:bell:a*",
    "FEDELTA:BELL:A",
    "fedelta:bell:a\n",
    "a",
    "x",
]


def attacks():
    """Commands that a hospital has no business to run: those that a rule allows it are left out."""
    for place in PLACES:
        if place not in MINE.values():
            for command in commands_in(ON_A_KEY, key=place, **MINE):
                if command[0].lower() not in SITE_MAY.get(place, ()):
                    yield command
    yield from commands_in(ON_THE_SERVER, **MINE)
    yield from (("PUBLISH", channel, "x") for channel in MISTAKABLE)
    yield from (("SET", SHARED["spec"], "x"), ("SET", MINE["order"], "x"), ("GET", SHARED["inbox"]))


def commands_in(text, **names):
    """The commands in one of the texts above, with its names filled in."""
    for line in text.strip().splitlines():
        for command in line.split(";"):
            yield tuple(word.format(**names) for word in shlex.split(command))


ATTACKS = list(dict.fromkeys(attacks()))


def results_of(connection, commands):
    """What the server answers to each, errors included; sent at once."""
    connection.send_packed_command(connection.pack_commands(commands))
    results = []
    for _ in commands:
        try:
            results.append(connection.read_response(disconnect_on_error=False))
        except (redis.ResponseError, AuthenticationError) as error:
            results.append(error)
    return results


def try_all(url, attacks):
    """The attacks that were not forbidden, with what came of them."""
    with redis.Redis.from_url(url) as client:
        connection = client.connection_pool.get_connection()
        results = results_of(connection, attacks)
        client.connection_pool.release(connection)
    return {
        attack: result
        for attack, result in zip(attacks, results, strict=True)
        if not isinstance(result, NoPermissionError)
    }


@pytest.mark.parametrize("name", sorted({attack[0] for attack in ATTACKS}))
def test_a_hospital_is_forbidden_what_is_not_its_work(trial, name):
    before = everything(trial)
    chosen = [attack for attack in ATTACKS if attack[0] == name]
    assert try_all(trial.url(ATTACKER), chosen) == {}
    assert everything(trial) == before


def test_a_hospitals_own_work_is_allowed(trial, coordinator):
    own = SiteLedger(trial.connect(ATTACKER))
    own.announce(["a"], "fedelta", Call(kind="here"))
    assert own.spec("trial").experiment.sites == SITES
    assert submit(trial.connect(ATTACKER), "a/1", constant(1.0))
    own.put_evaluation("trial", "a", 0, 10, {"mse": 1.0})
    assert trial.connect(ATTACKER).brpop(site_queue("a"), timeout=1) is not None
    aggregate.aggregate("trial")
    assert [row.site for row in progress.history(coordinator, "trial")] == ["a"]
    assert trial.connect(access.ADMIN).acl_log() == []


def test_a_hospitals_work_with_a_large_model_is_allowed_and_the_centres_own(trial, coordinator, monkeypatch):
    monkeypatch.setattr(values, "LARGE", 100_000)
    monkeypatch.setattr(values, "PIECE", 10_000)
    params = {path: np.full((200, 200), value, np.float32) for path, value in (("weight", 1), ("bias", 0))}
    spec = make_spec(name="large", sites=list(SITES))
    assert Ledger(trial.connect(access.OPERATOR)).create("large", spec, params)
    own = SiteLedger(trial.connect(ATTACKER))
    taken = own.take("large", "a/1", "worker")
    model, _ = own.model(spec.experiment, 0, params)
    delta = codec.pack_tree({path: leaf + 1 for path, leaf in model.items()})
    answer = Submission(order="a/1", issued=taken.order.issued, delta=delta, num_examples=1)
    assert own.submit("large", taken.lease, answer)
    delta_key = keys.delta("large", "a")
    assert trial.connect(TESTER).type(delta_key) == b"hash" and trial.connect(TESTER).ttl(delta_key) == -1
    aggregate.aggregate("large")
    head = progress.read(coordinator, "large").head
    assert (head.version, head.refused) == (1, 0)
    assert progress.model(trial.connect(access.OPERATOR), "large", 1)["bias"].min() > 0
    assert snapshot.take(trial.connect(access.OPERATOR), "large").state.head.version == 1
    assert not trial.connect(TESTER).keys("fedelta:{large}:new:*")
    assert trial.connect(access.ADMIN).acl_log() == []


# --- the rules, exactly ------------------------------------------------------------------------------------


def commands_of(tester):
    """Name (in one or two words), arity and categories of every command that the server knows."""
    tester.set_response_callback("COMMAND", lambda reply, **_: reply)
    for name, arity, _, _, _, _, categories, _, _, inner in tester.execute_command("COMMAND"):
        for entry in inner or [[name, arity, None, None, None, None, categories]]:
            words = entry[0].decode().split("|")
            yield words, abs(entry[1]), {category.decode() for category in entry[6]}


def allowed(guarded, user, places):
    """By place, the commands that the user may run with it in place of every argument."""
    tester = guarded.connect(TESTER)
    tried = [(words, arity, place) for words, arity, _ in commands_of(tester) for place in places]
    dry = [("ACL", "DRYRUN", user, *words, *[place] * (arity - len(words))) for words, arity, place in tried]
    connection = tester.connection_pool.get_connection()
    answers = results_of(connection, dry)
    tester.connection_pool.release(connection)
    found = {place: set() for place in places}
    for (words, _, place), answer in zip(tried, answers, strict=True):
        assert not isinstance(answer, redis.ResponseError), f"{words}: {answer}"
        if answer == b"OK":
            found[place].add("|".join(words))
    return found


def expected(everywhere, by_place):
    return {place: everywhere | by_place.get(place, set()) for place in PLACES}


def test_exactly_what_a_hospital_may_do(trial):
    assert allowed(trial, ATTACKER, PLACES) == expected(SITE_MAY_ANYWHERE, SITE_MAY)


def test_exactly_what_the_coordinator_may_do(trial):
    by_place = {
        **dict.fromkeys(LEDGER, READ | WRITE | DRAIN),
        **dict.fromkeys(QUEUES, {"lpush", "llen", "brpop"}),
        keys.bell("*"): READ | WRITE | DRAIN | {"psubscribe"},
        keys.WORK: READ | WRITE | DRAIN | {"publish"},
    }
    assert allowed(trial, access.COORDINATOR, PLACES) == expected(SITE_MAY_ANYWHERE, by_place)


def test_exactly_what_the_operator_may_do(trial):
    by_place = {**dict.fromkeys(LEDGER, READ | WRITE), **dict.fromkeys(QUEUES, {"lpush", "llen"})}
    assert allowed(trial, access.OPERATOR, PLACES) == expected(SITE_MAY_ANYWHERE, by_place)


def test_the_admin_changes_users_and_looks_at_the_server_but_reads_no_data(trial):
    acl = {
        "whoami",
        "list",
        "users",
        "getuser",
        "setuser",
        "deluser",
        "load",
        "save",
        "log",
        "cat",
        "genpass",
    }
    acl |= {"dryrun", "help"}
    everywhere = {*ALWAYS, "ping", "time", "info", "client|list", "client|kill", "config|get"}
    everywhere |= {f"acl|{name}" for name in acl}
    assert allowed(trial, access.ADMIN, PLACES) == expected(everywhere, {})


def test_exactly_what_flower_may_do(trial):
    in_trial = [CENTRAL[kind] for kind in ("head", "sites", "history", "metrics", "events")]
    shown = [keys.EXPERIMENTS, keys.COORDINATOR, SHARED["spec"], *in_trial]
    shown += [belongings(site)[kind] for site in SITES for kind in ("announcement", "lease")]
    by_place = {
        **dict.fromkeys(shown, LOOK),
        **dict.fromkeys(QUEUES, {"llen"}),
        **dict.fromkeys([keys.bell("*"), keys.WORK], {"psubscribe"}),
    }
    assert allowed(trial, access.FLOWER, PLACES) == expected(SITE_MAY_ANYWHERE, by_place)


@pytest.mark.parametrize(
    "user", [access.COORDINATOR, access.OPERATOR, access.FLOWER, *map(access.site_user, SITES)]
)
def test_none_but_the_admin_may_run_anything_dangerous(trial, user):
    dangerous = {
        "|".join(words)
        for words, _, categories in commands_of(trial.connect(TESTER))
        if categories & {"@dangerous", "@admin", "@scripting"}
    }
    found = allowed(trial, user, PLACES)
    assert set().union(*found.values()) & dangerous == set()


NAMES = [
    "a",
    "ab",
    "b",
    "a-a",
    "0",
    "delta",
    "spec",
    "model",
    "inbox",
    "order",
    "site",
    "coordinator",
    "trial",
]


def test_no_name_of_an_experiment_or_a_site_widens_what_a_hospital_may_do(trial):
    others = [name for name in NAMES if name != "a"]
    kinds = (keys.order, keys.lease, keys.delta, keys.evaluations)
    forbidden = [kind(experiment, site) for kind in kinds for experiment in NAMES for site in others]
    forbidden += [place for site in others for place in (keys.site(site), keys.bell(site), site_queue(site))]
    kinds = (keys.head, keys.sites, keys.memory, keys.history, keys.metrics, keys.events)
    forbidden += [kind(experiment) for kind in kinds for experiment in NAMES]
    tester = trial.connect(TESTER)
    commands = set().union(*SITE_MAY.values())
    arity = {"|".join(words): arity for words, arity, _ in commands_of(tester)}
    tried = list(itertools.product(forbidden, sorted(commands)))
    dry = [("ACL", "DRYRUN", ATTACKER, command, *[place] * (arity[command] - 1)) for place, command in tried]
    connection = tester.connection_pool.get_connection()
    answers = results_of(connection, dry)
    tester.connection_pool.release(connection)
    assert [what for what, answer in zip(tried, answers, strict=True) if answer == b"OK"] == []


HOSTILE_NAMES = [
    *(
        "",
        "*",
        "a*",
        "?",
        "[ab]",
        "a]",
        "a b",
        "a\n",
        "\na",
        "a\tb",
        "A",
        "a.b",
        "a:b",
        "a}",
        "{a",
        "a)",
        "(a",
        "a\\",
    ),
    *(
        "-a",
        "a-",
        "ä",
        "a\0",
        "a~*",
        "x}:delta:a",
        "x" * 64,
        "a\nuser evil on nopass +@all ~* &*",
        "a (+@all ~*)",
    ),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_a_name_that_could_be_a_pattern_or_a_rule_is_no_site_and_no_experiment(name):
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)
    with pytest.raises(SettingsError):
        access.site(name)
    with pytest.raises(SettingsError):
        access.acl_file({access.site_user(name): access.hashed("password")})


@pytest.mark.parametrize(
    "user", ["default", "root", "site", "site.", "sites.a", "Site.a", "admin ", "coordinator\n", "a"]
)
def test_a_user_that_is_neither_ours_nor_a_sites_gets_no_rule(user):
    with pytest.raises(SettingsError):
        access.acl_file({user: access.hashed("password")})


@pytest.mark.parametrize("stored", ["", "password", "0" * 63, "0" * 64 + " +@all", "0" * 64 + "\n", "G" * 64])
def test_what_is_no_hash_gets_into_no_rule(stored):
    with pytest.raises(SettingsError, match="user site.a: expected the password's SHA-256"):
        access.acl_file({"site.a": stored})


# --- transactions, strangers, databases --------------------------------------------------------------------


def test_a_transaction_with_one_forbidden_command_does_nothing(trial, attacker):
    before = everything(trial)
    with attacker.pipeline() as pipe:
        pipe.rpush(SHARED["inbox"], "a")
        pipe.delete(keys.delta("trial", "b"))
        with pytest.raises(NoPermissionError):
            pipe.execute()
    assert everything(trial) == before


@pytest.mark.parametrize("is_transaction", [False, True])
def test_every_attack_fails_in_a_pipeline_and_in_a_transaction_too(trial, is_transaction):
    before = everything(trial)
    chosen = [("MULTI",), *ATTACKS, ("EXEC",)] if is_transaction else ATTACKS
    gained = try_all(trial.url(ATTACKER), chosen)
    if is_transaction:
        assert gained.pop(("MULTI",)) == b"OK"
        assert isinstance(gained.pop(("EXEC",)), ExecAbortError)
        gained = {
            what: answer for what, answer in gained.items() if "inside a transaction" not in str(answer)
        }
    assert gained == {}
    assert everything(trial) == before


@pytest.mark.parametrize("key", [CENTRAL["head"], keys.order("trial", "ab"), SHARED["inbox"]])
def test_nothing_can_be_learnt_by_watching_a_key(attacker, key):
    with attacker.pipeline() as pipe, pytest.raises(NoPermissionError):
        pipe.watch(key)


def stranger(guarded):
    """A connection without a password."""
    return redis.Redis(port=guarded.port, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize(
    "command", [("PING",), ("GET", keys.spec("trial")), ("INFO",), ("ACL", "WHOAMI"), ("MULTI",)]
)
def test_who_says_no_password_gets_no_answer(trial, command):
    with stranger(trial) as client, pytest.raises(AuthenticationError):
        client.execute_command(*command)


def test_a_wrong_password_is_refused_and_so_is_the_default_user(trial):
    passwords = ["", "wrong", trial.passwords["site.ab"]]
    passwords += [access.hashed(trial.passwords[ATTACKER])]  # the hash, which is what the file holds
    for user, password in [
        *((ATTACKER, password) for password in passwords),
        ("default", ""),
        ("default", "x"),
    ]:
        with stranger(trial) as client, pytest.raises(AuthenticationError):
            client.execute_command("AUTH", user, password)
    with stranger(trial) as client, pytest.raises(AuthenticationError):
        client.execute_command("AUTH", trial.passwords[ATTACKER])  # without a user: the default one
    assert trial.connect(TESTER).acl_getuser("default")["flags"][0] == "off"


def test_a_failed_login_leaves_the_attacker_who_it_was(trial):
    said = [
        f"AUTH {ATTACKER} {trial.passwords[ATTACKER]}",
        "AUTH coordinator guess",
        f"GET {CENTRAL['head']}",
        "QUIT",
    ]
    with socket.create_connection(("127.0.0.1", trial.port)) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in said).encode())
        answers = connection.makefile("rb").read().decode().splitlines()
    assert [answer.split()[0] for answer in answers] == ["+OK", "-WRONGPASS", "-NOPERM", "+OK"]


@pytest.mark.parametrize("database", range(1, 16))
def test_a_hospital_has_the_first_database_only(trial, database):
    url = trial.url(ATTACKER).removesuffix("0") + str(database)
    with redis.Redis.from_url(url) as client, pytest.raises(NoPermissionError):
        client.get(keys.spec("trial"))


# --- real processes ----------------------------------------------------------------------------------------


@pytest.fixture
def processes(guarded, tmp_path):
    """Starts our command line as a user, in `tmp_path`; what still runs at the end is ended."""
    started = []

    def start(user, *arguments):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
        variables |= {"FEDELTA_BROKER_URL": guarded.url(user), "FEDELTA_RUNS_DIR": str(tmp_path / "runs")}
        with (tmp_path / f"{user}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
            )
        started.append(process)
        return process

    yield start
    children.end(started, grace_seconds=10.0)


def run(guarded, folder, name):
    """Submit an experiment of 20 updates as the operator, and wait for its end."""
    slow = {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 0.001}}
    changes = {"training": slow, "stop": {"updates": 20}, "seconds_per_order": {"default": 0.05}}
    with acting_as(guarded, access.OPERATOR) as operator:
        follow(name, None, begin(guarded, name, **changes))
        try:
            wait_until(lambda: progress.read(operator, name).head.phase == "finished")
        except AssertionError:
            pytest.fail("\n".join(log.read_text() for log in folder.glob("*.log")))
        head = progress.read(operator, name).head
    assert (head.outcome, head.applied, head.refused) == ("completed", 20, 0)
    as_people_look(guarded, name)


def test_hospitals_train_to_the_end_with_nothing_denied_and_while_one_is_attacked_from(
    guarded, processes, tmp_path
):
    admin = guarded.connect(access.ADMIN)
    processes(access.COORDINATOR, "coordinator")
    for site in SITES:
        processes(access.site_user(site), "worker", "--site", site)
    run(guarded, tmp_path, "quiet")
    assert admin.acl_log() == []

    gained, rounds, stopping = {}, [], threading.Event()

    def attack():
        while not stopping.is_set():
            gained.update(try_all(guarded.url(ATTACKER), ATTACKS))
            hospital(guarded, "a").rpush(SHARED["inbox"], "b", "ab", b"\xff")
            for data in HOSTILE_CALLS:
                hospital(guarded, "a").publish(MINE["bell"], data)
            rounds.append(len(ATTACKS))

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        run(guarded, tmp_path, "trial")
    finally:
        stopping.set()
        thread.join()
    assert gained == {}
    assert len(rounds) > 1
    assert {entry["username"] for entry in admin.acl_log()} == {ATTACKER}
