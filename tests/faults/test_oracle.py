import numpy as np
import pytest

from tasks import aggregate, codec, collect, keys, messages
from tasks.ledger import Ledger
from tasks.messages import HistoryRow, Submission
from tasks.site_ledger import SiteLedger
from tests.conftest import make_spec, zeros
from tests.faults import aof
from tests.faults.oracle import Disagreement, check_end, judge
from tests.faults.parties import kill_all
from tests.faults.redis_server import RedisServer

STRATEGIES = [
    {"kind": "fedasync", "mixing_rate": 0.5},
    {"kind": "fedbuff", "buffer_size": 2},
    {"kind": "fedavg"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("oracle") / "redis")
    server.is_wanted = True
    server.look_after()
    server.await_answer()
    yield server
    kill_all([server])
    server.client.close()


def run(server, strategy):
    """A small experiment by hand, to its end; what was written of it."""
    client = server.client
    client.flushall()
    spec = make_spec(strategy=strategy, stop={"updates": 6}, evaluation={"every": 1000})
    Ledger(client).create("trial", spec, zeros())
    sites = SiteLedger(client)
    score(client, 0)
    while aggregate_once(client).head.phase == "running":
        for site in ("a", "ab", "c"):
            if stored := client.get(keys.order("trial", site)):
                order = messages.decode(messages.Order, stored)
                taken = sites.take("trial", order.id, "worker")
                delta = {path: np.full_like(leaf, order.seed % 7 + 1) for path, leaf in zeros().items()}
                made = Submission(
                    order=order.id, issued=order.issued, delta=codec.pack_tree(delta), num_examples=10
                )
                assert sites.submit("trial", taken.lease, made)
    for version in (6, 3, 2):  # whichever of them is the last
        score(client, version)
    written = list(aof.units(server.folder))
    newest = max(place for place, unit in enumerate(written) if unit[0][0].upper() == b"FLUSHALL")
    return written[newest:]


def score(client, version):
    for site in ("a", "ab", "c"):
        SiteLedger(client).put_evaluation("trial", site, version, 10, {"mse": 1.0, "r2": 0.5})
    with Ledger(client).turn("trial") as turn:
        collect.close_evaluation(turn)


def aggregate_once(client):
    with Ledger(client).turn("trial") as turn:
        return aggregate.drain(turn)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["kind"])
def test_the_oracle_agrees_with_an_honest_run(server, strategy):
    found = judge(run(server, strategy), "trial")
    check_end(found, updates=6)
    assert len(found.rows) == found.head.applied == 6


@pytest.fixture(scope="module")
def written(server):
    return run(server, STRATEGIES[0])


def changed(written, key, change, number=0):
    """The same, with the nth write of that key changed."""
    key = key.encode()
    places = [
        (u, c)
        for u, unit in enumerate(written)
        for c, command in enumerate(unit)
        if command[1:2] == [key] and command[0].upper() in (b"SET", b"XADD", b"HSET")
    ]
    u, c = places[number]
    copy = [[list(command) for command in unit] for unit in written]
    change(copy, copy[u], copy[u][c], c)
    return copy


def refusal(written):
    with pytest.raises(Disagreement) as caught:
        check_end(judge(written, "trial"))
    return caught.value.check


def test_a_row_that_is_there_twice_is_found(written):
    def again(_, unit, command, place):
        unit.insert(place, command)

    assert refusal(changed(written, keys.history("trial"), again, 2)) == "every update is in the history once"


def test_a_row_that_is_missing_is_found(written):
    def without(_, unit, command, __):
        unit.remove(command)

    assert refusal(changed(written, keys.history("trial"), without, 1)) in (
        "applied is the history's length",
        "versions have no gap",
    )


def test_a_commit_that_did_not_see_the_one_before_is_found(written):
    def without(everything, unit, *_):
        everything.remove(unit)

    scored = keys.metrics("trial")
    assert refusal(changed(written, scored, without)) == "commits follow one another"


def test_a_row_of_a_wrong_version_is_found(written):
    def skip(_, __, command, ___):
        row = messages.decode(HistoryRow, command[-1])
        skipped = {**vars(row), "version": row.version + 1, "base_version": row.base_version + 1}
        command[-1] = messages.encode(
            HistoryRow(**{k: v for k, v in skipped.items() if not k.startswith("_")})
        )

    assert refusal(changed(written, keys.history("trial"), skip, 3)) == "base and staleness are the order's"


def test_a_byte_of_a_model_that_differs_is_found(written):
    def flip(_, __, command, ___):
        command[2] = command[2][:-1] + bytes([command[2][-1] ^ 1])

    last = keys.model("trial", 6)
    assert refusal(changed(written, last, flip)) == "the model is what the history says"


def test_a_delta_that_differs_from_what_was_folded_is_found(written):
    def swap(_, __, command, ___):
        submission = messages.decode(Submission, command[2], zeros())
        fields = {name: getattr(submission, name) for name in submission.__dataclass_fields__}
        other = {path: np.full_like(leaf, 99) for path, leaf in zeros().items()}
        command[2] = messages.encode(Submission(**{**fields, "delta": codec.pack_tree(other)}))

    assert refusal(changed(written, keys.delta("trial", "ab"), swap)) == "the model is what the history says"


def test_a_delta_that_was_never_stored_is_found(written):
    def without(everything, unit, *_):
        everything.remove(unit)

    assert refusal(changed(written, keys.delta("trial", "c"), without)) == "an update was submitted before"


def test_a_run_that_has_not_ended_is_found(written):
    assert refusal(written[: len(written) // 2]) == "it ends"


def test_a_file_that_ends_in_the_middle_of_a_write_is_read_up_to_there(written):
    data = aof.encoded(written)
    whole = list(aof.commands(data))
    for cut in range(1, 60):
        assert list(aof.commands(data[:-cut])) == whole[: len(list(aof.commands(data[:-cut])))]
        assert len(list(aof.commands(data[:-cut]))) >= len(whole) - 4
    assert len(list(aof.commands(data[:-1]))) == len(whole) - 1
