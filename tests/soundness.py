"""What must hold of an experiment's ledger at any moment, whatever has happened to it so far."""

from collections import Counter
from itertools import pairwise

import numpy as np

from tasks import codec, differences, keys, messages, progress, values
from tasks.messages import Order
from tasks.site_ledger import SiteLedger
from tests.conftest import zeros
from workers import params as trees
from workers.spec import Differences
from workers.strategies import Server, Update


def check(client, experiment, delta_of, taken_back):
    """The ledger of "trial" is sound.

    `delta_of` says of an order's id, as it stands or was carried out, which delta alone may count for it;
    `taken_back` are the orders whose end is in no record: their site went away, or somebody stopped it all,
    or they were carried out before or after training.
    """
    found = progress.read(client, "trial")
    rows, events = (list(read(client, "trial")) for read in (progress.history, progress.events))
    check_versions(found, rows, experiment)
    check_counts(found, events)
    refused = [event.order for event in events if event.kind == "refused"]
    check_every_order_has_one_fate(found, rows, refused, taken_back)
    check_what_is_asked(client, found)
    check_nobody_is_forgotten(found, rows, experiment.strategy)
    check_model(client, found, experiment, replay(found, rows, experiment.strategy, delta_of))
    bases = {site.record.base_version for site in found.sites}
    needed = {found.head.version, found.head.evaluating, *bases} - {None}
    check_models(client, {keys.model("trial", version).encode() for version in needed})


def check_model(client, found, experiment, params):
    """The current version is there as the experiment sends it, and the last as it is, also once resumed."""
    if isinstance(experiment.compression.down, Differences):
        return check_followed(client, found, params)
    coding = messages.coding_of_model(experiment, found.head.version)
    sent = codec.decode_tree(codec.encode_tree(params, coding), None, coding)
    stored = codec.encode_tree(progress.model(client, "trial", found.head.version))
    possible = [] if found.head.phase in ("finishing", "finished") else [codec.encode_tree(sent)]
    if not possible or found.head.resumed:
        possible.append(codec.encode_tree(params))
    assert stored in possible


def check_followed(client, found, params):
    """The exact model is in the memory; the last version is it, others are near, and sites get them."""
    memory = codec.decode_tree(values.read(client, keys.memory("trial")), None)
    exact, version = trees.below("exact model", memory), found.head.version
    assert codec.encode_tree(exact) == codec.encode_tree(params)
    published = progress.model(client, "trial", version)
    assert max(float(np.abs(published[path] - leaf).max()) for path, leaf in exact.items()) < 1.0
    if found.head.phase in ("finishing", "finished") and found.head.outcome != "":
        assert codec.encode_tree(published) == codec.encode_tree(exact)
    fetched, _ = SiteLedger(client).model(found.spec.experiment, version, exact)
    assert codec.encode_tree(fetched) == codec.encode_tree(published)


def check_models(client, needed):
    """Versions that somebody needs, and differences that join the chain of the newest, and nothing else."""
    chain = differences.chain(client, "trial")[0].versions
    joined = {keys.difference("trial", version, before).encode() for before, version in pairwise(chain)}
    joined |= {keys.chain("trial").encode()} if chain else set()
    assert set(client.keys("fedelta:{trial}:model:*")) == needed | joined


def check_versions(found, rows, experiment):
    versions = [row.version for row in rows]
    assert sorted(set(versions)) == list(range(1, max(versions, default=0) + 1))
    assert versions == sorted(versions)
    assert found.head.applied == len(rows) <= experiment.stop.updates
    assert all(row.staleness == row.version - 1 - row.base_version >= 0 for row in rows)
    if experiment.strategy.is_synchronous:
        needed, answered = experiment.strategy.needed(len(found.sites)), Counter(versions)
        assert all(answered[version] >= needed for version in range(1, found.head.version + 1))
        assert len({(row.site, row.version) for row in rows}) == len(rows)  # a site once in a round


def check_counts(found, events):
    """What is counted is what was noted, in all and of each site."""
    for kind, counter in (("refused", "refused"), ("resent", "resent"), ("gone", "absences")):
        noted = Counter(event.site for event in events if event.kind == kind)
        assert {site.name: getattr(site.record, counter) for site in found.sites if noted[site.name]} == noted
        assert getattr(found.head, counter) == noted.total()
    back = Counter(event.site for event in events if event.kind == "back")
    for site in found.sites:
        assert site.record.absences - back[site.name] == site.record.is_away


def check_every_order_has_one_fate(found, rows, refused, taken_back):
    """Each that was ever given is in the history once, or refused once, or taken back once, or open."""
    applied = [f"{row.site}/{row.order}" for row in rows]
    standing = [f"{s.name}/{s.record.sequence}" for s in found.sites if s.record.base_version is not None]
    given = [f"{s.name}/{number}" for s in found.sites for number in range(1, s.record.sequence + 1)]
    assert sorted(applied + refused + taken_back + standing) == sorted(given)


def check_what_is_asked(client, found):
    """Sites describe before training, and make their own models once the experiment has come to its end."""
    is_personal = found.head.outcome == "completed" and found.spec.experiment.personal is not None
    fitting = {
        "describing": "describe",
        "running": "train",
        "finishing": "personalize" if is_personal else "",
    }
    for site in found.sites:
        stored = client.get(keys.order("trial", site.name))
        assert (stored is None) == (site.record.base_version is None)
        if stored is not None:
            order = messages.decode(Order, stored)
            assert order.asks == fitting.get(found.head.phase)
            assert (order.updates, order.begun) == (site.record.updates, found.head.started)


def check_nobody_is_forgotten(found, rows, strategy):
    """Every site has an order, or its update is in the round, or it is away and owed one.

    Before training it may have done all that is asked, too.
    """
    if found.head.phase == "describing":
        for record in (site.record for site in found.sites):
            states = (record.base_version is not None, record.is_done, record.is_owed, record.is_dropped)
            assert sum(states) == 1, f"ordered, done, owed, dropped: {states}"
            assert record.is_away or not record.is_owed
        return
    if found.head.phase != "running":
        return  # what is asked then is looked at by itself
    in_the_round = {row.site for row in rows if row.version > found.head.version}
    for site in found.sites:
        record = site.record
        if record.is_dropped:
            assert record.base_version is None
        elif strategy.is_synchronous:
            states = (record.base_version is not None, site.name in in_the_round, record.is_owed)
            assert sum(states) == 1, f"{site.name} is ordered, in the round, owed: {states}"
            assert record.is_away or not record.is_owed
            assert not record.is_away or record.base_version is None
        else:
            assert record.base_version is not None and not record.is_owed


def replay(found, rows, strategy, delta_of):
    """The model that the history says: every update folded in as its row tells."""
    server = Server(params=zeros(), version=0, memory=strategy.init(zeros()))
    models = {0: server.params}
    for place, row in enumerate(rows):
        update = Update(
            delta=delta_of(f"{row.site}/{row.order}"),
            base=models[row.base_version],
            num_examples=row.num_examples,
            staleness=row.staleness,
        )
        assert row.weight == strategy.weight(update)
        server = strategy.fold(server, update)
        # A round is over when its last row is there and the ledger has gone on.
        is_last = place + 1 == len(rows) or rows[place + 1].version != row.version
        is_over = is_last and server.version < found.head.version
        server = strategy.close(server, 0 if is_over else 1, len(found.sites))
        models[server.version] = server.params
    assert server.version == found.head.version
    return server.params
