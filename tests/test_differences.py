"""Versions as differences: whoever follows them has the same bits as who fetches a version in full."""

from itertools import pairwise

import numpy as np
import pytest
import redis

from orchestrator import access, archive, control, experiment
from tasks import cache, codec, differences, keys, messages, progress, site_ledger, snapshot, turn, values
from tasks.ledger import Ledger
from tasks.messages import Chain
from tasks.site_ledger import SiteLedger
from tests.conftest import drain, order_of
from tests.test_compressed import (
    MIXING,
    STRATEGIES,
    assert_same_bits,
    begin,
    bring_to_rest,
    distance,
    exact_of,
    kind_of,
    named,
    params_of,
    published_of,
    skip_last_scores,
    submit,
)
from workers import compression
from workers import params as trees
from workers.compression import Int4
from workers.errors import MalformedMessage, NotFound
from workers.spec import Differences, Traffic

WIDTH = 3000  # features: 12 kB, which without an id would not be remembered
CODINGS = [
    {"kind": "bfloat16"},
    {"kind": "int8"},
    {"kind": "int4", "block": 1024},
    {"kind": "int4", "rotation": True},
    {"kind": "int3"},
    {"kind": "int2"},
    {"kind": "top-k", "fraction": 0.05},
]


def down(**coding):
    return {"kind": "differences", "coding": coding or {"kind": "int4"}}


def start(client, coding=None, **changes):
    changes = {"sites": ["a", "c"], "width": WIDTH, **changes}
    return begin(client, params_of(0, width=WIDTH), down=down(**coding or {}), **changes)


def advance(client, spec, seed, site="a"):
    """One order more of this site, and what comes of it; returns the version."""
    order = order_of(client, site).id
    submit(client, spec, order, params_of(seed, scale=0.1, width=WIDTH))
    return drain(client).head.version


def versions(client, spec, number):
    """Let it come to this version, of an experiment in which each update makes one."""
    while (version := progress.read(client, "trial").head.version) < number:
        advance(client, spec, version + 1)


class Site:
    """A hospital's worker, which remembers what it has fetched."""

    def __init__(self, client, spec):
        self.client, self.spec = client, spec
        self.remembered = cache.Cache(max_bytes=2**20, keeps_last=True)

    def model(self, version, client=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(site_ledger, "remembered", self.remembered)
            ledger = SiteLedger(client or self.client)
            return ledger.model(self.spec.experiment, version, params_of(0, width=WIDTH))


def chain_of(client):
    return differences.chain(client, "trial")[0]


def links(client):
    """Bytes of each difference that there is, by its key's end."""
    found = client.keys("fedelta:{trial}:model:*:after:*")
    return {key.decode().partition(":model:")[2]: client.strlen(key) for key in found}


def length(client, key):
    return client.strlen(key)


# The same bits, whichever way


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
@pytest.mark.parametrize("coding", CODINGS, ids=named)
def test_every_version_is_the_same_by_its_difference_in_full_and_as_the_formula_says(
    client, coding, strategy
):
    spec = start(client, coding, strategy=strategy)
    site, kind = Site(client, spec), kind_of(coding)
    made, _ = site.model(0)
    assert_same_bits(made, params_of(0, width=WIDTH))
    before = 0
    for number in range(1, 13):
        version = advance(client, spec, number, "ac"[number % 2])
        if version == before:  # its buffer, or its round, is not full
            continue
        x = exact_of(client)
        for path, leaf in x.items():  # W <- W + C(x - W)
            sent = compression.encode(kind, leaf - made[path], None)
            made = {**made, path: made[path] + compression.decode(kind, sent, leaf.shape, None)}
        for found in (site.model(version)[0], Site(client, spec).model(version)[0], published_of(client)):
            assert_same_bits(found, made)
        with Ledger(client).turn("trial") as found:
            assert_same_bits(found.model(version), made)
        assert distance(made, x) > 0
        before = version
    assert before >= 4


def test_two_updates_of_one_drain_are_one_difference_over_two_numbers(client):
    spec = start(client)
    site = Site(client, spec)
    site.model(0)
    for each in ("a", "c"):
        submit(client, spec, f"{each}/1", params_of(1, width=WIDTH))
    assert drain(client).head.version == 2
    advance(client, spec, 5)
    assert chain_of(client).versions == [0, 2, 3] and set(links(client)) == {"2:after:0", "3:after:2"}
    assert_same_bits(site.model(3)[0], published_of(client, 3))


@pytest.mark.parametrize("coding", CODINGS, ids=named)
def test_the_error_does_not_add_up(client, coding):
    """Without feedback, W <- W + C(x_v - x_u), it is a sum of as many errors as there are versions."""
    spec, kind = start(client, coding, sites=["a"]), kind_of(coding)
    open_loop, x, errors, apart = params_of(0, width=WIDTH), params_of(0, width=WIDTH), [], []
    for number in range(1, 51):
        advance(client, spec, number)
        new = exact_of(client)
        for path, leaf in new.items():
            lost = compression.encode(kind, leaf - x[path], None)
            open_loop[path] = open_loop[path] + compression.decode(kind, lost, leaf.shape, None)
        x = new
        errors.append(distance(published_of(client), x))
        apart.append(distance(open_loop, x))
    settled = np.mean(errors[20:30])  # int2 and top-k leave out much of each difference, and need some
    assert np.mean(errors[40:]) < 1.2 * settled
    assert np.mean(apart[40:]) > 1.5 * np.mean(errors[40:])
    if kind.kind in ("bfloat16", "int8", "int4"):
        assert errors[-1] < 0.25 * distance(
            published_of(client), {path: leaf * 0 for path, leaf in x.items()}
        )


def test_of_an_old_update_the_base_is_what_its_site_had_and_what_is_lost_since(client):
    spec = start(client)
    had = published_of(client, 0)
    versions(client, spec, 3)
    x, sent = exact_of(client), published_of(client, 3)
    delta = params_of(9, scale=0.1, width=WIDTH)
    submit(client, spec, "c/1", delta)
    drain(client)
    for path, leaf in exact_of(client).items():
        base = had[path] + (x[path] - sent[path])
        np.testing.assert_array_equal(leaf, (1 - MIXING) * x[path] + MIXING * (base + delta[path]))


# Bytes


def test_what_is_fetched_is_counted_and_is_the_differences_as_long_as_they_are_fewer_bytes(client):
    spec = start(client)
    near, far, new = (Site(client, spec) for _ in range(3))
    whole = length(client, keys.model("trial", 0))
    assert near.model(0)[1] == far.model(0)[1] == whole
    versions(client, spec, 2)
    chain, one = length(client, keys.chain("trial")), length(client, keys.difference("trial", 1, 0))
    assert length(client, keys.difference("trial", 2, 1)) == one < whole / 6
    assert near.model(2)[1] == chain + 2 * one
    assert near.model(2)[1] == chain  # it has it
    versions(client, spec, 20)
    chain, num_links = length(client, keys.chain("trial")), (whole - 1) // one
    assert chain < whole / 40
    assert (chain_of(client).versions, len(links(client))) == ([*range(20 - num_links, 21)], num_links)
    assert sum(links(client).values()) < whole <= sum(links(client).values()) + one
    for site, number in ((near, 2), (far, 0)):
        assert number < 20 - num_links  # so that there is no way from what it has
        assert site.model(20)[1] == chain + whole
    assert new.model(20)[1] == chain + whole
    near.model(20)
    versions(client, spec, 20 + num_links)
    assert near.model(20 + num_links)[1] < whole + 2 * chain


def test_no_more_differences_are_kept_than_can_be_of_use_at_once(client):
    spec = start(client, {"kind": "top-k", "fraction": 0.001})
    versions(client, spec, differences.MAX_LINKS + 5)
    assert len(links(client)) == differences.MAX_LINKS
    assert (
        len(client.keys("fedelta:{trial}:model:*")) == differences.MAX_LINKS + 3
    )  # the chain; the newest, c's base


def test_where_differences_are_no_shorter_all_is_fetched_in_full(client):
    spec = begin(client, params_of(0, width=20), down=down(), width=20, sites=["a"])
    for number in (1, 2):
        submit(client, spec, f"a/{number}", params_of(number, width=20))
        drain(client)
    assert links(client) == {}
    found, num_bytes = SiteLedger(client).model(spec.experiment, 2, params_of(0, width=20))
    np.testing.assert_allclose(found["weight"], exact_of(client)["weight"], rtol=1e-6)
    assert num_bytes == length(client, keys.model("trial", 2)) + length(client, keys.chain("trial"))


def test_an_older_version_than_the_one_that_is_remembered_is_fetched_in_full(client):
    spec = start(client)
    versions(client, spec, 2)
    site = Site(client, spec)
    site.model(2)
    for newest in (2, 20):  # it is in the chain, and is not any more
        versions(client, spec, newest)
        site.remembered._kept.pop(keys.model("trial", 0), None)
        found, num_bytes = site.model(0)  # the base of c's order
        assert_same_bits(found, params_of(0, width=WIDTH))
        assert num_bytes == sum(length(client, key) for key in (keys.model("trial", 0), keys.chain("trial")))


def test_what_a_site_has_is_not_changed_by_what_follows(client):
    spec = start(client)
    site = Site(client, spec)
    first, _ = site.model(0)
    versions(client, spec, 3)
    made, _ = site.model(3)
    assert_same_bits(first, params_of(0, width=WIDTH))
    assert not any(leaf.flags.writeable for leaf in [*first.values(), *made.values()])


# What is missing, malformed, or another


def test_a_difference_that_is_missing_makes_a_site_fetch_the_whole(client):
    spec = start(client)
    site = Site(client, spec)
    site.model(0)
    versions(client, spec, 3)
    client.delete(keys.difference("trial", 2, 1))
    found, num_bytes = site.model(3)
    assert_same_bits(found, published_of(client, 3))
    whole, one = (length(client, key) for key in (keys.model("trial", 3), keys.difference("trial", 1, 0)))
    assert num_bytes == length(client, keys.chain("trial")) + one + whole


def test_without_the_chain_a_site_fetches_the_whole_and_the_next_version_begins_a_new_one(client):
    spec = start(client)
    site = Site(client, spec)
    versions(client, spec, 2)
    assert_same_bits(site.model(2)[0], published_of(client, 2))
    client.delete(keys.chain("trial"))
    assert site.model(2)[1] == codec.PREFIX  # it is still the same
    versions(client, spec, 3)
    assert chain_of(client).versions == [2, 3]
    found, num_bytes = site.model(3)
    assert_same_bits(found, published_of(client, 3))
    assert num_bytes < length(client, keys.model("trial", 3)) / 4


def test_a_chain_whose_last_version_was_written_anew_is_not_gone_on_with(client):
    spec = start(client, sites=["a"])
    versions(client, spec, 2)
    site = Site(client, spec)
    site.model(2)
    other = codec.tree_in_parts(params_of(7, width=WIDTH), identity=b"12345678")
    client.set(keys.model("trial", 2), other.whole)
    versions(client, spec, 3)
    assert (chain_of(client).versions, list(links(client))) == ([2, 3], ["3:after:2"])
    assert_same_bits(site.model(3)[0], published_of(client, 3))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"coding": Int4(block=16)},
            "the data of leaf 'weight': expected 1548 bytes of int4 for (3000, 1), got 2252",
        ),
        ({"coding": compression.Int8()}, "leaf 'weight': expected dtype, shape, encoding 'int4' and data"),
        ({"width": 20}, "leaf 'weight': expected float32 (3000, 1), got float32 (20, 1)"),
    ],
)
def test_a_difference_of_another_model_or_coding_is_refused_and_the_leaf_named(client, changed, said):
    spec = start(client)
    site = Site(client, spec)
    site.model(0)
    versions(client, spec, 1)
    key = keys.difference("trial", 1, 0)
    coding = codec.Coding(changed.get("coding", Int4()), None)
    tree = codec.pack_tree(params_of(1, width=changed.get("width", WIDTH)), coding)
    client.set(key, codec.packed_in_parts(tree, codec.id_of(client.get(key))).whole)
    with pytest.raises(MalformedMessage) as raised:
        site.model(1)
    assert said in str(raised.value)
    client.set(key, b"garbage")
    assert_same_bits(site.model(1)[0], published_of(client, 1))


def test_a_version_that_nobody_needs_is_not_there_in_full(client):
    spec = start(client, sites=["a"])
    versions(client, spec, 3)
    with pytest.raises(NotFound, match="version 1 is deleted"):
        Site(client, spec).model(1)


def test_a_redis_that_has_forgotten_a_version_and_made_another_in_its_place_leads_nobody_astray(client):
    spec = start(client, sites=["a"])
    ahead, behind = Site(client, spec), Site(client, spec)
    versions(client, spec, 2)
    for site in (ahead, behind):
        site.model(2)
    copy = {key: client.dump(key) for key in client.keys()}
    advance(client, spec, 3)
    forgotten, link = ahead.model(3)[0], client.get(keys.difference("trial", 3, 2))
    advance(client, spec, 4)
    ahead.model(4)
    client.flushall()
    for key, value in copy.items():
        client.restore(key, 0, value)
    advance(client, spec, 33)
    for site in (ahead, behind):
        found, num_bytes = site.model(3)
        assert_same_bits(found, published_of(client, 3))
        assert num_bytes < length(client, keys.model("trial", 3)) / 4  # from version 2, which is as it was
    assert distance(found, forgotten) > 0
    advance(client, spec, 44)
    assert_same_bits(ahead.model(4)[0], published_of(client, 4))
    client.set(keys.difference("trial", 3, 2), link)  # of the world that is forgotten
    late = Site(client, spec)
    late.remembered = behind.remembered
    behind.remembered._kept.pop(keys.model("trial", 3))
    assert_same_bits(late.model(4)[0], published_of(client, 4))


# The end, and going on


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_the_last_version_is_as_it_is_and_no_difference_is_left(client, strategy):
    spec = start(client, strategy=strategy, sites=["a"])
    for number in range(1, 7):
        advance(client, spec, number)
    site, head = Site(client, spec), progress.read(client, "trial").head
    site.model(head.version)
    assert links(client)
    bring_to_rest(client)
    exact = exact_of(client)
    assert client.keys("fedelta:{trial}:model:*") == [keys.model("trial", head.version).encode()]
    assert_same_bits(published_of(client), exact)
    assert_same_bits(site.model(head.version)[0], exact)
    assert site.model(head.version)[1] == codec.PREFIX
    control.resume(client, "trial")
    with Ledger(client).turn("trial") as found:
        assert_same_bits(found.base(head.version), exact)
    for number in (7, 8):
        version = advance(client, spec, number)
    whole = length(client, keys.model("trial", version))
    found, num_bytes = site.model(version)
    assert_same_bits(found, published_of(client, version))
    assert num_bytes < whole / 2 and chain_of(client).versions[0] == head.version
    assert distance(found, exact_of(client)) > 0


@pytest.mark.parametrize("is_at_rest", [True, False])
def test_exported_and_imported_its_chain_begins_anew(client, tmp_path, is_at_rest):
    spec = start(client, sites=["a"])
    versions(client, spec, 3)
    if is_at_rest:
        bring_to_rest(client)
    exact, sent, site = exact_of(client), published_of(client), Site(client, spec)
    site.model(3)
    archive.write(tmp_path / "trial.zip", snapshot.take(client, "trial"), experiment.text(spec.experiment))
    client.flushall()
    stale = Chain(versions=[2, 3], ids=[b"x" * 8, b"y" * 8])
    client.set(keys.chain("trial"), messages.encode(stale))  # of one that this Redis has forgotten
    with archive.opened(tmp_path / "trial.zip") as found:
        assert snapshot.put(client, found.snapshot)
    assert not client.exists(keys.chain("trial"))
    assert_same_bits(published_of(client), sent)
    assert_same_bits(exact_of(client), exact)
    assert Ledger(client).spec("trial").experiment.compression == spec.experiment.compression
    control.resume(client, "trial")
    assert advance(client, spec, 4) == 4
    assert chain_of(client).versions == [3, 4]
    found, num_bytes = site.model(4)
    assert_same_bits(found, published_of(client, 4))
    assert num_bytes < length(client, keys.model("trial", 4)) / 4


def test_a_chain_that_is_left_of_another_experiment_of_that_name_is_not_believed(client):
    spec = start(client)
    site = Site(client, spec)
    versions(client, spec, 1)
    site.model(1)
    chain = client.get(keys.chain("trial"))
    client.flushall()
    client.set(keys.chain("trial"), chain)
    spec = start(client)
    assert not client.exists(keys.chain("trial"))
    versions(client, spec, 1)
    assert_same_bits(site.model(1)[0], published_of(client, 1))


def test_a_difference_that_cannot_be_sent_ends_the_experiment_with_the_version_before(client):
    spec = start(client, {"kind": "float16"}, sites=["a"])
    versions(client, spec, 2)
    before = exact_of(client)
    submit(client, spec, "a/3", {path: np.full_like(x, 1e6) for path, x in before.items()})
    head = drain(client).head
    assert (head.outcome, head.version) == ("failed", 2)
    start_of = (
        "compression.down: version 3 of the model cannot be sent so: leaf 'weight': value 0: expected a "
    )
    assert head.reason.startswith(start_of)
    assert_same_bits(published_of(client), before)
    skip_last_scores(client)
    control.resume(client, "trial")
    versions(client, spec, 3)
    assert_same_bits(Site(client, spec).model(3)[0], published_of(client, 3))


# Large models, and credentials


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_of_large_models_it_is_the_same_though_arrays_are_used_again(client, monkeypatch, strategy):
    found = []
    for is_large in (False, True):
        client.flushall()
        if is_large:
            monkeypatch.setattr(values, "PIECE", 1000)
            monkeypatch.setattr(values, "LARGE", 1100)
            monkeypatch.setattr(codec, "APART", 1000)
            monkeypatch.setattr(turn, "remembered", cache.Cache(max_bytes=1000))
        spec = start(client, strategy=strategy)
        site = Site(client, spec)
        for number in range(1, 9):
            version = advance(client, spec, number, "ac"[number % 2])
            assert_same_bits(site.model(version)[0], published_of(client, version))
        kinds = {client.type(keys.model("trial", version)), *map(client.type, client.keys("*:after:*"))}
        assert kinds == {b"hash" if is_large else b"string"}
        assert not client.keys("*:new:*")
        found.append((exact_of(client), published_of(client)))
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other)


def test_the_difference_of_a_whole_model_is_never_in_memory_nor_are_two_of_what_sites_have(monkeypatch):
    sizes = []
    pack = codec.pack_tree
    monkeypatch.setattr(codec, "pack_tree", lambda tree, *more: sizes.append(len(tree)) or pack(tree, *more))
    x, sent = (trees.under("layer", params_of(seed)) for seed in (0, 1))
    own = {path: leaf.copy() for path, leaf in sent.items()}
    _, made = differences.between(x, own, codec.Coding(Int4(), None))
    assert sizes == [1, 1]
    assert all(np.shares_memory(made[path], leaf) for path, leaf in own.items())
    assert 0 < distance(made, x) < 0.2 * distance(sent, x)


def test_a_hospitals_credentials_are_enough(client):
    spec = start(client)
    versions(client, spec, 1)
    access.put_user(client, access.site_user("a"), access.hashed("secret"))
    where = client.connection_pool.connection_kwargs
    try:
        hospital = redis.Redis(
            unix_socket_path=where["path"], username=access.site_user("a"), password="secret"
        )
        site = Site(client, spec)
        site.model(0, hospital)
        found, num_bytes = site.model(1, hospital)
        hospital.close()
    finally:
        client.acl_deluser(access.site_user("a"))
    assert_same_bits(found, published_of(client, 1))
    assert num_bytes < length(client, keys.model("trial", 1)) / 4


def test_the_chain_is_in_order_and_each_difference_has_the_id_of_what_it_makes(client):
    spec = start(client)
    versions(client, spec, 3)
    found = chain_of(client)
    assert list(pairwise(found.versions)) == [(0, 1), (1, 2), (2, 3)]
    for before, version in pairwise(found.versions):
        id_ = found.ids[found.versions.index(version)]
        difference = client.get(keys.difference("trial", version, before))
        assert codec.id_of(difference) == id_
    for version in (0, 3):
        assert codec.id_of(values.identity(client, keys.model("trial", version))) == found.ids[version]


# In the experiment's file


@pytest.mark.parametrize("coding", CODINGS, ids=named)
def test_any_coding_will_do_and_is_the_same_by_way_of_the_experiments_file(client, coding):
    """Also one that leaves out values, since they are sent later; sites keep nothing for it."""
    written = start(client, coding).experiment
    found = experiment.parse(experiment.text(written), "trial.toml")
    assert found.compression == written.compression == Traffic(down=Differences(coding=kind_of(coding)))
    assert Differences() == Differences(coding=Int4(block=1024))
    assert not found.keeps_own
