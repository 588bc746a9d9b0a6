import dataclasses

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import codec, messages
from tasks.messages import (
    Announcement,
    EvaluationRow,
    Event,
    HistoryRow,
    MetricsRow,
    Offer,
    Order,
    Submission,
)
from tasks.state import Head, SiteRecord
from workers.data_settings import Data, Dirichlet
from workers.errors import MalformedMessage
from workers.models import LinearRegression, MultilayerPerceptron
from workers.optimizers import Adam
from workers.schema import Schema
from workers.spec import (
    Delay,
    Evaluation,
    Experiment,
    LocalTraining,
    Spec,
    Stop,
    Target,
)
from workers.staleness import Hinge
from workers.standardization import Preprocessing
from workers.strategies import FedAsync, FedBuff

thorough = settings(max_examples=300, deadline=None, derandomize=True)

DELTA = {"weight": np.float32([[1.5], [-2.0]]), "bias": np.float32([0.25])}
ISSUED = 1.75e9 + 1 / 3  # seconds that no shorter text than repr's holds
ORDER = Order(site="lakeside", sequence=3, base_version=0, issued=ISSUED, attempt=2, seed=2**63 - 1)
SUBMISSION = Submission(
    order="lakeside/3",
    issued=ISSUED,
    delta=codec.pack_tree(DELTA),
    num_examples=120,
    loss=0.3,
    started=1.75e9,
    seconds=0.1,
    bytes_down=300,
)
HISTORY_ROW = HistoryRow(
    time=1.75e9,
    site="lakeside",
    order=3,
    base_version=5,
    version=8,
    staleness=2,
    weight=0.1,
    num_examples=120,
    loss=0.3,
    bytes_up=400,
    bytes_down=300,
    started=1.75e9,
    seconds=0.1,
)
FLAT = [
    Announcement(
        seen=1.75e9,
        software="fedelta 0.1.0",
        datasets=[Offer(name="heart", format="csv", num_examples=303, num_columns=14)],
    ),
    ORDER,
    Submission(order="lakeside/3", issued=ISSUED, error="the file is not there: «Akte»"),
    HISTORY_ROW,
    EvaluationRow(time=0.1, version=0, num_examples=40, metrics={"auroc": None, "accuracy": 0.9}),
    MetricsRow(time=0.1, version=2, applied=4, num_sites=2, metrics={"mse": 1e-300}),
    Event(time=0.1, kind="refused", site="lakeside", order="lakeside/3", detail="leaf 'w' is missing"),
    Event(time=0.1, kind="finished"),
]
EXPERIMENT = Experiment(
    name="trial",
    seed=7,
    sites=("lakeside", "southpark"),
    data=Data(dataset="wine", partition=Dirichlet(alpha=0.3), holdout=0.2),
    model=MultilayerPerceptron(hidden=(8, 4)),
    training=LocalTraining(optimizer=Adam(learning_rate=0.01), steps=5, clip_norm=1.0),
    strategy=FedBuff(buffer_size=2, staleness=Hinge(), server_optimizer=Adam(learning_rate=0.1, b1=0.8)),
    evaluation=Evaluation(every=2, metric="log_loss"),
    stop=Stop(updates=9, target=Target(metric="accuracy", value=0.9)),
    seconds_per_order={"default": Delay(distribution="uniform", mean=0.1), "southpark": 2.0},
)
SPEC = Spec(
    experiment=EXPERIMENT,
    schema=Schema(
        features=("x", "y"),
        target="cultivar",
        target_kind="multiclass",
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(fill=(0.1, 1 / 3), shift=(0.1, 1 / 3), scale=(1.0, 2e-9)),
    ),
)


def fields_of(message):
    return msgpack.unpackb(messages.encode(message))


def refusal(kind, fields):
    with pytest.raises(MalformedMessage) as raised:
        messages.decode(kind, msgpack.packb(fields))
    return str(raised.value)


# Round trips


@pytest.mark.parametrize("message", FLAT, ids=lambda message: type(message).__name__)
def test_a_message_round_trips(message):
    data = messages.encode(message)
    assert messages.decode(type(message), data) == message
    assert next(iter(msgpack.unpackb(data).items())) == ("v", messages.FORMAT)


def test_a_submission_carries_its_delta():
    decoded = messages.decode(Submission, messages.encode(SUBMISSION))
    delta = codec.unpack_tree(decoded.delta, DELTA)
    for path, leaf in DELTA.items():
        np.testing.assert_array_equal(delta[path], leaf, strict=True)
    without = [dataclasses.replace(each, delta=None) for each in (decoded, SUBMISSION)]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    "experiment",
    [
        EXPERIMENT,
        Experiment(
            name="line",
            sites=("a",),
            data=Data(dataset="two-hospitals"),
            model=LinearRegression(),
            training=LocalTraining(epochs=1),
            strategy=FedAsync(max_staleness=4),
            stop=Stop(seconds=0.5),
        ),
    ],
    ids=lambda experiment: experiment.name,
)
def test_a_spec_round_trips_with_every_choice_in_it(experiment):
    spec = dataclasses.replace(SPEC, experiment=experiment)
    decoded = messages.decode(Spec, messages.encode_spec(spec))
    assert decoded == spec
    assert hash(decoded.experiment.training) == hash(spec.experiment.training)


def test_an_orders_id_is_its_site_and_sequence_number():
    assert ORDER.id == "lakeside/3"


def test_an_orders_claim_adds_when_it_was_given_to_the_last_bit():
    assert ORDER.claim == "lakeside/3 1750000000.3333333" == messages.claim("lakeside/3", ISSUED)
    assert float(ORDER.claim.split(" ")[1]) == ISSUED == msgpack.unpackb(messages.encode(ORDER))["issued"]
    assert dataclasses.replace(ORDER, issued=0.0).claim == "lakeside/3 0.0"
    assert messages.decode(Order, msgpack.packb(fields_of(ORDER) | {"issued": 7})).claim == "lakeside/3 7.0"


# Refusals


@pytest.mark.parametrize("version", [0, 2, None, "1", []])
def test_a_message_of_an_unknown_format_is_refused(version):
    assert refusal(Order, fields_of(ORDER) | {"v": version}) == f"Order: expected format 1, got {version!r}"


def test_a_message_without_its_format_is_refused():
    fields = fields_of(ORDER)
    del fields["v"]
    assert refusal(Order, fields) == "Order: expected format 1, got None"


@pytest.mark.parametrize("field", ["site", "sequence", "base_version", "issued", "attempt", "seed"])
def test_a_message_without_one_of_its_fields_is_refused(field):
    fields = fields_of(ORDER)
    del fields[field]
    assert refusal(Order, fields) == f"Order: {field}: is missing"


def test_a_message_with_a_field_more_is_refused():
    assert refusal(Order, fields_of(ORDER) | {"priority": 1}) == (
        "Order: priority: is not a field that is known here, got 1"
    )


@pytest.mark.parametrize(
    ("message", "field", "value", "complaint"),
    [
        (ORDER, "site", 3, "should be a valid string, got 3"),
        (ORDER, "site", None, "should be a valid string"),
        (ORDER, "site", b"\xff", "should be a valid string"),
        (ORDER, "sequence", "three", "should be a valid integer, got 'three'"),
        (ORDER, "sequence", 0, "should be greater than 0, got 0"),
        (ORDER, "sequence", 1.5, "should be a valid integer, got 1.5"),
        (ORDER, "sequence", float("inf"), "should be a valid integer, got inf"),
        (ORDER, "base_version", -1, "should be greater than or equal to 0, got -1"),
        (ORDER, "attempt", [], "should be a valid integer"),
        (ORDER, "issued", None, "should be a valid number"),
        (ORDER, "issued", -1.0, "should be greater than or equal to 0, got -1.0"),
        (SUBMISSION, "issued", "now", "should be a valid number"),
        (SUBMISSION, "issued", float("nan"), "should be a finite number, got nan"),
        (SUBMISSION, "loss", float("nan"), "should be a finite number, got nan"),
        (SUBMISSION, "loss", float("-inf"), "should be a finite number, got -inf"),
        (SUBMISSION, "loss", None, "should be a valid number"),
        (SUBMISSION, "delta", {"weight": 1}, "should be a valid list"),
        (SUBMISSION, "delta", b"123", "should be a valid list"),
        (SUBMISSION, "num_examples", -1, "should be greater than or equal to 0, got -1"),
        (SUBMISSION, "seconds", -0.1, "should be greater than or equal to 0, got -0.1"),
        (SUBMISSION, "error", "x" * 501, "String should have at most 500 characters, got 'xxx"),
        (FLAT[0], "software", "x" * 201, "String should have at most 200 characters, got 'xxx"),
        (FLAT[0], "seen", float("nan"), "should be a finite number, got nan"),
        (FLAT[4], "metrics", [0.5], "should be a valid dictionary"),
        (
            FLAT[7],
            "kind",
            "exploded",
            "expected 'refused', 'resent', 'dropped', 'gone', 'back', 'software', 'unattended', 'described', "
            "'finished', 'resumed' or 'imported', got ",
        ),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(message, field, value, complaint):
    found = refusal(type(message), fields_of(message) | {field: value})
    assert found.startswith(f"{type(message).__name__}: {field}: {complaint}")


@pytest.mark.parametrize("value", [msgpack.Timestamp(1), msgpack.ExtType(5, b"x")])
def test_what_only_msgpack_knows_is_refused(value):
    assert refusal(Order, fields_of(ORDER) | {"seed": value}).endswith("exceeds max_ext_len(0)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high", []])
def test_a_metric_that_is_no_finite_number_is_refused(value):
    fields = fields_of(FLAT[4]) | {"metrics": {"auroc": value}}
    assert refusal(EvaluationRow, fields).startswith("EvaluationRow: metrics.auroc: should be a ")


def test_a_spec_is_checked_as_its_experiment_is():
    fields = msgpack.unpackb(messages.encode_spec(SPEC))
    fields["experiment"]["strategy"]["buffer_size"] = 0
    assert refusal(Spec, fields) == "Spec: experiment.strategy.buffer_size: should be greater than 0, got 0"


def test_one_kind_of_message_is_not_another():
    with pytest.raises(MalformedMessage, match="^Order: site: is missing$"):
        messages.decode(Order, messages.encode(dataclasses.replace(SUBMISSION, delta=None)))
    with pytest.raises(MalformedMessage, match="^Event: kind: is missing$"):
        messages.decode(Event, msgpack.packb({"v": 1, "time": 0.5}))


# Garbage


@given(st.binary(max_size=100), st.sampled_from([Order, Submission, EvaluationRow, Spec]))
@thorough
def test_arbitrary_bytes_are_refused_and_nothing_else_is_raised(data, kind):
    with pytest.raises(MalformedMessage):
        messages.decode(kind, data)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
        st.builds(msgpack.Timestamp, st.integers(0, 2**32)),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([*FLAT, SUBMISSION]).flatmap(
        lambda message: st.tuples(
            st.just(message),
            st.dictionaries(
                st.sampled_from([field.name for field in dataclasses.fields(message)])
                | st.text(max_size=5)
                | st.binary(max_size=5),
                values,
                min_size=1,
                max_size=3,
            ),
        )
    )
)
@thorough
def test_any_values_in_any_fields_make_a_valid_message_or_are_refused(given_):
    message, wrong = given_
    data = msgpack.packb(fields_of(message) | wrong)
    try:
        decoded = messages.decode(type(message), data)
    except MalformedMessage as error:
        assert str(error).startswith((f"{type(message).__name__}: ", "expected a msgpack map"))
        return
    assert messages.decode(type(message), messages.encode(decoded)) == decoded


@given(data=st.data())
@thorough
def test_a_damaged_message_is_refused_or_valid(data):
    message = bytearray(messages.encode(SUBMISSION))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(message[: data.draw(st.integers(len(message) - 3, len(message)))])
    try:
        decoded = messages.decode(Submission, damaged)
        if decoded.delta is not None:
            codec.unpack_tree(decoded.delta, DELTA)
    except MalformedMessage:
        return
    assert np.isfinite(decoded.loss)


# Redis hashes

FULL_HEAD = Head(
    phase="finishing",
    outcome="completed",
    reason="version 3 is reached",
    version=3,
    applied=4,
    refused=1,
    resent=2,
    absences=3,
    bytes_up=2**40,
    bytes_down=5,
    started=1.75e9 + 1 / 3,
    paused=0.1,
    first_update=1.75e9 + 2 / 3,
    finished=0.0,
    evaluating=0,
    evaluating_since=1e-7,
    evaluated=2,
    best=-0.1,
    evaluations_since_best=3,
    commits=99,
)
FULL_RECORD = SiteRecord(
    sequence=4,
    base_version=0,
    issued=ISSUED,
    attempt=1,
    sent_at=0.1,
    updates=3,
    staleness=2,
    refusals=5,
    is_owed=True,
    is_away=True,
    is_dropped=True,
    software="fedelta 0.1.0",
    absences=6,
    resent=7,
    refused=8,
)


@pytest.mark.parametrize("fields", [Head(started=0.0), FULL_HEAD, SiteRecord(), FULL_RECORD])
def test_a_hash_round_trips_exactly_none_included(fields):
    stored = {name.encode(): value.encode() for name, value in messages.to_hash(fields).items()}
    assert messages.from_hash(type(fields), stored) == fields


def test_a_hash_is_readable_with_redis_cli():
    written = messages.to_hash(FULL_RECORD) | messages.to_hash(Head(started=0.5))
    assert all(type(value) is str for value in written.values())
    assert (written["sequence"], written["base_version"], written["is_dropped"]) == ("4", "0", "True")
    assert (written["phase"], written["started"], written["evaluating"]) == ("running", "0.5", "")


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
@thorough
def test_any_number_and_text_survive_a_hash(started, best, reason):
    head = Head(started=started, best=best, reason=reason)
    stored = {name.encode(): value.encode() for name, value in messages.to_hash(head).items()}
    assert messages.from_hash(Head, stored) == head


# Seeds


def test_the_seed_of_an_order_never_changes():
    # Pinned: an order that is sent again, by whatever version of the software, gives the same delta.
    assert messages.seed_of(EXPERIMENT, "lakeside", 1) == 7886888060521601006


def test_the_seed_differs_by_site_sequence_number_and_experiment():
    other = dataclasses.replace(EXPERIMENT, seed=8)
    seeds = {
        messages.seed_of(experiment, site, sequence)
        for experiment in (EXPERIMENT, other)
        for site in ("lakeside", "southpark", "lakeside1")
        for sequence in range(1, 101)
    }
    assert len(seeds) == 2 * 3 * 100
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_examples", "1" + "0" * 400),
        ("num_examples", 2**63),
        ("bytes_down", "1"),
        ("seconds", "1"),
        ("loss", True),
    ],
)
def test_a_number_that_is_text_or_a_truth_value_or_too_large_is_refused(field, value):
    with pytest.raises(MalformedMessage, match=f"Submission: {field}"):
        messages.decode(Submission, msgpack.packb({"v": 1, "order": "a/1", "issued": 0.5, field: value}))


@pytest.mark.parametrize("changes", [{"num_examples": 0}, {"metrics": {"mse": 1e300}}])
def test_a_score_that_would_spoil_the_mean_is_refused(changes):
    fields = {"v": 1, "time": 0.0, "version": 0, "num_examples": 1, "metrics": {"mse": 0.5}, **changes}
    with pytest.raises(MalformedMessage):
        messages.decode(EvaluationRow, msgpack.packb(fields))


# Limits


@pytest.mark.parametrize(
    ("message", "field", "value", "complaint"),
    [
        (SUBMISSION, "order", "a" * 81, "order: String should have at most 80 characters"),
        (SUBMISSION, "loss", 2e39, "loss: should be less than or equal to 1000"),
        (SUBMISSION, "started", -1.0, "started: should be greater than or equal to 0, got -1.0"),
        (
            SUBMISSION,
            "started",
            1e12,
            "started: should be less than or equal to 100000000000, got 1000000000000.0",
        ),
        (
            SUBMISSION,
            "seconds",
            1e10,
            "seconds: should be less than or equal to 1000000000, got 10000000000.0",
        ),
        (FLAT[0], "seen", 1e300, "seen: should be less than or equal to 100000000000, got 1e+300"),
        (FLAT[4], "time", -1.0, "time: should be greater than or equal to 0, got -1.0"),
        (FLAT[4], "version", 2**53, f"version: should be less than {2**53}, got {2**53}"),
        (FLAT[4], "metrics", {"m" * 65: 0.5}, "metrics."),
        (
            FLAT[4],
            "metrics",
            {str(n): 0.5 for n in range(33)},
            "metrics: Dictionary should have at most 32 items",
        ),
        (FLAT[6], "detail", "x" * 1001, "detail: String should have at most 1000 characters"),
    ],
)
def test_a_field_past_its_limit_is_refused(message, field, value, complaint):
    found = refusal(type(message), fields_of(message) | {field: value})
    assert found.startswith(f"{type(message).__name__}: {complaint}")


def test_a_message_with_no_tree_is_measured_before_it_is_decoded():
    data = bytes(messages.MAX_BYTES + 1)
    with pytest.raises(MalformedMessage, match="^Order: expected at most 16384 bytes, got 16385$"):
        messages.decode(Order, data)


def test_the_lists_of_a_submission_are_no_longer_than_the_reference_allows():
    delta = codec.pack_tree({f"leaf{index}": np.zeros(1, np.float32) for index in range(40)})
    data = messages.encode(dataclasses.replace(SUBMISSION, delta=delta))
    assert len(messages.decode(Submission, data).delta) == 40
    with pytest.raises(MalformedMessage, match="40 exceeds max_array_len"):
        messages.decode(Submission, data, DELTA)


def test_the_largest_experiment_is_decoded():
    sites = tuple(f"site-{number}" for number in range(2000))
    delays = dict.fromkeys(sites, Delay(distribution="uniform", mean=1.0))
    experiment = dataclasses.replace(EXPERIMENT, sites=sites, seconds_per_order=delays)
    spec = dataclasses.replace(SPEC, experiment=experiment)
    assert messages.decode(Spec, messages.encode_spec(spec)) == spec


@pytest.mark.parametrize("field", ["a\nb", "\x1b[2J", "x" * 4000])
def test_a_refusal_is_one_printable_line(field):
    found = refusal(Order, fields_of(ORDER) | {field: 1})
    assert found.isprintable() and len(found) <= 1000


def test_what_a_site_says_is_shown_in_one_line():
    assert messages.one_line("Akte\n\x1b[2J\u202efehlt «»") == "Akte  [2J fehlt «»"
    assert len(messages.one_line("x" * 5000)) == 1000


@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        ({}, "Head: started: is missing"),
        ({b"started": b"\xff"}, "Head: expected a hash of texts: "),
        ({b"\xff": b"1"}, "Head: expected a hash of texts: "),
        (
            {b"started": b"soon"},
            "Head: started: should be a valid number, unable to parse string as a number",
        ),
        ({b"started": b"nan"}, "Head: started: should be a finite number"),
        ({b"started": b"1", b"version": b"-1"}, "Head: version: should be greater than or equal to 0"),
        ({b"started": b"1", b"version": b"9" * 5000}, "Head: version: "),
        ({b"started": b"1", b"phase": b"gone"}, "Head: phase: expected 'describing', 'running', "),
        ({b"started": b"1", b"more": b"1"}, "Head: more: is not a field that is known here"),
    ],
)
def test_a_hash_that_is_none_is_refused(stored, complaint):
    with pytest.raises(MalformedMessage) as raised:
        messages.from_hash(Head, stored)
    assert str(raised.value).startswith(complaint)
    assert len(str(raised.value)) <= 1000
