"""What a site's compression leaves out comes with its next delta, whatever happens in between."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import codec, feedback, keys, messages, progress
from tasks.feedback import Kept
from tasks.ledger import Ledger
from tasks.messages import Order, Submission
from tasks.participation import participation
from tasks.train import train
from tests.conftest import drain, make_spec
from workers import compression, data, model_file, personal
from workers.compression import Int8, TopK
from workers.errors import FedeltaError
from workers.personal import Trained
from workers.spec import Spec

TOP_K = {"kind": "top-k", "fraction": 0.05}
ORDER = Order(site="a", sequence=1, base_version=0, issued=0.0, attempt=1, seed=1)


def experiment_of(up):
    return make_spec(compression={"up": up}).experiment


def sent_of(experiment, order, tree):
    """The values that a coordinator takes from it."""
    coding = messages.coding_of_delta(experiment, order.site, order.sequence)
    return codec.unpack_tree(tree, None, coding)


# The arithmetic


def test_what_a_site_keeps_of_its_own_and_what_was_left_out_are_told_apart():
    own, left_out = {"bias": np.ones(1)}, {"bias": np.zeros(1), "a/weight": np.ones(2)}
    kept = feedback.joined(Kept(own, left_out))
    assert set(kept) == {"bias", "left out/bias", "left out/a/weight"}
    assert feedback.split(kept) == Kept(own, left_out)
    assert feedback.split({}) == Kept({}, {})
    assert feedback.split({"left outside/bias": own["bias"]}).own.keys() == {"left outside/bias"}


def test_of_a_hundred_values_one_is_sent_with_an_order_and_the_others_with_the_next():
    experiment = experiment_of({"kind": "top-k", "fraction": 0.01})
    delta = {"weight": np.ones(100, np.float32), "bias": np.float32([0.3])}
    delta["weight"][7] = 3.0
    tree, left_out = feedback.packed(experiment, ORDER, delta, {})
    sent = sent_of(experiment, ORDER, tree)
    assert (np.flatnonzero(sent["weight"]).tolist(), sent["weight"][7]) == ([7], 3.0)
    assert sent["bias"].tobytes() == delta["bias"].tobytes()  # small leaves are sent as they are
    expected = np.ones(100, np.float32)
    expected[7] = 0.0
    np.testing.assert_array_equal(left_out["weight"], expected)
    assert left_out["bias"] == 0.0

    nothing = {path: np.zeros_like(leaf) for path, leaf in delta.items()}
    places = set()
    for _ in range(99):
        tree, left_out = feedback.packed(experiment, ORDER, nothing, left_out)
        (place,) = np.flatnonzero(sent_of(experiment, ORDER, tree)["weight"])
        places.add(int(place))
    assert places == {*range(100)} - {7}
    assert not left_out["weight"].any()


def test_what_rounding_to_two_bytes_leaves_out_is_kept_too():
    delta = {"weight": np.zeros(64, np.float32)}
    delta["weight"][3] = 1 + 2**-12  # of which bfloat16 has the 1
    _, left_out = feedback.packed(experiment_of({"kind": "top-k", "fraction": 0.02}), ORDER, delta, {})
    assert left_out["weight"][3] == np.float32(2**-12)


@pytest.mark.parametrize("up", [None, {"kind": "int8"}, {"kind": "bfloat16"}])
def test_what_is_right_on_average_leaves_nothing_out_and_takes_nothing_in(up):
    rng = np.random.default_rng(0)
    delta = {"weight": rng.normal(size=(100, 2)).astype(np.float32)}
    experiment = experiment_of(up)
    tree, left_out = feedback.packed(experiment, ORDER, delta, {"weight": np.ones((100, 2), np.float32)})
    assert left_out == {} and not experiment.keeps_own
    np.testing.assert_allclose(sent_of(experiment, ORDER, tree)["weight"], delta["weight"], atol=0.03)


def test_what_is_given_is_not_changed():
    delta, left_out = ({"weight": np.full(100, value, np.float32)} for value in (1.0, 2.0))
    feedback.packed(experiment_of(TOP_K), ORDER, delta, left_out)
    assert set(delta["weight"]) == {1.0} and set(left_out["weight"]) == {2.0}


def test_the_seed_is_the_orders_and_each_leaf_has_its_own():
    experiment = experiment_of({"kind": "int8"})
    leaf = np.random.default_rng(0).normal(size=300).astype(np.float32)
    tree, _ = feedback.packed(experiment, ORDER, {"one": leaf, "two": leaf}, {})
    seed = messages.seed_of(experiment, "a", 1)
    found = [bytes(array["data"]) for _, array in tree]
    assert found == [compression.encode(Int8(), leaf, seed + place).tobytes() for place in (0, 1)]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("up", "value", "said"),
    [
        ("bfloat16", 1e31, "1e+30, got 9.99"),
        ("float16", 7e4, "65504, got 70000"),
        ("int8", 1e31, "1e+30, got 9.99"),
        ("int4", np.inf, "1e+30, got inf"),
        ("top-k", np.nan, "1e+30, got nan"),
    ],
)
def test_a_value_that_cannot_be_compressed_is_told_with_its_leaf(up, value, said):
    delta = {"bias": np.zeros(2, np.float32), "weight": np.zeros((70, 2), np.float32)}
    delta["weight"][30, 1] = value
    with pytest.raises(FedeltaError) as raised:
        feedback.packed(experiment_of({"kind": up}), ORDER, delta, {})
    assert str(raised.value).startswith(
        "the change cannot be sent compressed as the study asks: leaf 'weight': value 61: expected a finite "
        f"number up to {said}"
    )


# Sites that train, with files and a Redis


@pytest.fixture
def begin(client, tmp_path, monkeypatch):
    """Begins an experiment on a real data set, with a layer of 160 weights; returns its spec."""
    monkeypatch.setenv("FEDELTA_PERSONAL_DIR", str(tmp_path / "personal"))

    def begin_experiment(up=TOP_K, **changes):
        participation.cache_clear()
        written = make_spec(
            data={"dataset": "diabetes"},
            model={"kind": "mlp", "hidden": [16]},
            training={"steps": 3, "optimizer": {"name": "sgd", "learning_rate": 1e-4}},
            compression={"up": up},
            **changes,
        ).experiment
        spec = Spec(experiment=written, schema=data.describe(written))
        params = spec.model.init(np.random.default_rng(0), spec.schema.input_shape, 1)
        assert Ledger(client).create("trial", spec, params) is not None
        return spec

    return begin_experiment


@pytest.fixture
def trained(monkeypatch):
    """What the sites have trained, in order, before it was compressed."""
    found, carry_out = [], personal.carry_out

    def remember(*arguments):
        found.append(carry_out(*arguments))
        return found[-1]

    monkeypatch.setattr("tasks.train.personal.carry_out", remember)
    return found


def submission_of(client, spec, site):
    reference = participation("trial", site).reference
    return messages.decode(Submission, client.get(keys.delta("trial", site)), reference)


def kept_of(tmp_path, site, order):
    return feedback.split(load_file(tmp_path / "personal" / "trial" / site / f"after-{order}.safetensors"))


def total(trees):
    """The sum of trees, in float64."""
    return {path: sum(np.asarray(tree[path], np.float64) for tree in trees) for path in trees[0]}


def test_what_was_sent_and_what_is_left_out_are_together_what_was_trained(client, begin, trained, tmp_path):
    spec, sent = begin(), []
    for number in range(1, 7):
        train("trial", f"a/{number}")
        issued = Order(site="a", sequence=number, base_version=0, issued=0, attempt=1, seed=0)
        sent.append(sent_of(spec.experiment, issued, submission_of(client, spec, "a").delta))
        drain(client)
        found = total([*sent, kept_of(tmp_path, "a", number).left_out])
        for path, leaf in total([one.delta for one in trained]).items():
            np.testing.assert_allclose(found[path], leaf, rtol=0, atol=2e-6, err_msg=path)
    assert [np.count_nonzero(one["layer0/weight"]) for one in sent] == [8] * 6  # 5 % of 160
    left_out = kept_of(tmp_path, "a", 6).left_out
    assert np.linalg.norm(left_out["layer0/weight"]) > 0.1 * np.linalg.norm(trained[0].delta["layer0/weight"])
    assert progress.read(client, "trial").head.refused == 0


def test_sites_keep_what_each_has_left_out_apart(client, begin, tmp_path):
    begin()
    for order in ("a/1", "c/1"):
        train("trial", order)
    one, other = (kept_of(tmp_path, site, 1).left_out["layer0/weight"] for site in ("a", "c"))
    assert one.any() and other.any() and not np.array_equal(one, other)


WORKER = """
import sys
from pathlib import Path
from tasks import environment
from tasks.app import use_broker
from tasks.train import train
from workers import originals
use_broker(sys.argv[1])
originals.use(environment.data_folders())
train("trial", sys.argv[2])
"""


def test_a_worker_that_was_started_anew_sends_the_same_bytes(client, begin, private_redis, tmp_path):
    begin()
    train("trial", "a/1")
    drain(client)
    train("trial", "a/2")
    here = client.get(keys.delta("trial", "a")).partition(b"num_examples")[0]
    client.delete(keys.delta("trial", "a"))
    kept = tmp_path / "personal" / "trial" / "a" / "after-2.safetensors"
    expected = kept.read_bytes()
    kept.unlink()
    command = [sys.executable, "-c", WORKER, private_redis.broker_url, "a/2"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert client.get(keys.delta("trial", "a")).partition(b"num_examples")[0] == here
    assert kept.read_bytes() == expected


def test_an_order_that_is_carried_out_again_sends_and_keeps_the_same(client, begin, tmp_path):
    begin()
    train("trial", "a/1")
    drain(client)
    done = []
    for _ in range(2):
        train("trial", "a/2")
        delta = client.get(keys.delta("trial", "a")).partition(b"num_examples")[0]
        done.append((delta, (tmp_path / "personal" / "trial" / "a" / "after-2.safetensors").read_bytes()))
        client.delete(keys.delta("trial", "a"))
    assert done[0] == done[1]


def test_what_cannot_be_sent_is_the_sites_failure_and_leaves_what_it_keeps_as_it_was(
    client, begin, monkeypatch, tmp_path
):
    begin()
    train("trial", "a/1")
    drain(client)
    folder = tmp_path / "personal" / "trial" / "a"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    carry_out = personal.carry_out

    def diverge(*arguments):
        found = carry_out(*arguments)
        delta = {path: np.full_like(leaf, 1e31) for path, leaf in found.delta.items()}
        return Trained(delta=delta, own=found.own, loss=found.loss)

    monkeypatch.setattr("tasks.train.personal.carry_out", diverge)
    train("trial", "a/2")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    new = drain(client)
    assert (new.head.applied, new.head.refused, new.sites["a"].sequence) == (1, 1, 3)
    (event,) = [event for event in progress.events(client, "trial") if event.kind == "refused"]
    start = "the site could not train: the change cannot be sent compressed as the study asks: leaf "
    assert event.detail.startswith(start) and "expected a finite number up to 1e+30" in event.detail


@pytest.mark.parametrize(
    "chosen",
    [
        {"kind": "local-layers", "layers": ["layer1"]},
        {"kind": "ditto", "penalty": 0.5},
        {"kind": "fine-tuning", "epochs": 1},
    ],
    ids=lambda chosen: chosen["kind"],
)
def test_a_sites_own_model_and_what_was_left_out_do_not_meet(client, begin, trained, tmp_path, chosen):
    spec = begin(personal=chosen, stop={"updates": 3}, strategy={"kind": "fedasync", "mixing_rate": 0.5})
    for number in range(1, 4):
        train("trial", f"a/{number}")
        drain(client)
        kept = kept_of(tmp_path, "a", number)
        assert kept.own.keys() == trained[-1].own.keys()
        for path, leaf in kept.own.items():
            assert leaf.tobytes() == np.asarray(trained[-1].own[path]).tobytes(), path
        assert kept.left_out.keys() == trained[-1].delta.keys()
        assert kept.left_out["layer0/weight"].any()
        if chosen["kind"] == "local-layers":
            mine = {path for path in kept.left_out if path.startswith("layer1/")}
            assert kept.own.keys() == mine
            assert not any(kept.left_out[path].any() for path in mine)
    train("trial", "a/4")  # its own model
    assert submission_of(client, spec, "a").error == ""
    _, saved = model_file.load(tmp_path / "personal" / "trial" / "a" / "model.safetensors")
    last = progress.model(client, "trial", 3)
    assert saved.keys() == last.keys()
    if chosen["kind"] == "local-layers":
        assert saved["layer0/weight"].tobytes() == last["layer0/weight"].tobytes()
    for path, leaf in kept.own.items():
        assert saved[path].tobytes() == leaf.tobytes(), path


def test_a_site_that_has_lost_its_disk_begins_with_nothing_left_out(client, begin, trained, tmp_path):
    spec = begin()
    train("trial", "a/1")
    drain(client)
    (tmp_path / "personal" / "trial" / "a" / "after-1.safetensors").unlink()
    train("trial", "a/2")
    order = Order(site="a", sequence=2, base_version=0, issued=0, attempt=1, seed=0)
    expected, _ = feedback.packed(spec.experiment, order, trained[-1].delta, {})
    found = submission_of(client, spec, "a").delta
    assert [bytes(array["data"]) for _, array in found] == [bytes(array["data"]) for _, array in expected]


def test_only_a_kind_with_feedback_keeps_anything(client, begin, tmp_path):
    assert TopK().needs_feedback and begin(up=TOP_K).experiment.keeps_own
    client.flushall()
    assert not begin(up={"kind": "int4"}).experiment.keeps_own
    train("trial", "a/1")
    assert not (tmp_path / "personal").exists()
