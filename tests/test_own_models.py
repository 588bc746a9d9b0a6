"""What a site keeps of its own model, in real files."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from tasks import own_models
from tasks.messages import Order
from tests.conftest import make_spec, zeros
from workers import model_file
from workers.errors import MalformedMessage


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_PERSONAL_DIR", str(tmp_path / "personal"))
    return tmp_path / "personal" / "trial" / "a"


def order(sequence, begun=1000.5, issued=0.0):
    return Order(site="a", sequence=sequence, base_version=7, issued=issued, attempt=1, seed=1, begun=begun)


def own(value):
    return {"layer2/weight": np.full((2, 1), value, np.float32)}


def value_before(sequence, **changes):
    found = own_models.before("trial", order(sequence, **changes))
    return found["layer2/weight"][0, 0] if found else None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_order_begins_with_what_the_one_before_it_left(folder):
    assert value_before(1) is None
    for number in (1, 2, 3):
        own_models.keep("trial", order(number), own(number))
        assert value_before(number + 1) == number
    assert value_before(9) == 3  # orders in between were taken back


def test_an_order_that_is_done_again_begins_where_it_began_the_first_time(folder):
    own_models.keep("trial", order(1), own(1))
    own_models.keep("trial", order(4), own(4))
    assert value_before(4) == 1
    own_models.keep("trial", order(4), own(4))
    assert value_before(4) == 1
    assert value_before(5) == 4


def test_what_is_given_back_is_what_was_kept_bit_for_bit():
    rng = np.random.default_rng(0)
    kept = {"bias": np.array([-0.0, np.nan], np.float32), "a/b": rng.normal(size=(3, 2)).astype(np.float32)}
    own_models.keep("trial", order(1), kept)
    found = own_models.before("trial", order(2))
    assert {path: (leaf.dtype, leaf.tobytes()) for path, leaf in found.items()} == {
        path: (leaf.dtype, leaf.tobytes()) for path, leaf in kept.items()
    }


def test_no_more_than_two_are_kept_however_many_orders_there_are(folder):
    for number in range(1, 12):
        own_models.keep("trial", order(number), own(number))
    assert names(folder) == ["after-10.safetensors", "after-11.safetensors"]


def test_a_worker_that_was_stopped_and_wakes_up_does_away_with_nothing_newer(folder):
    for number in (4, 5, 6):
        own_models.keep("trial", order(number), own(number))
    own_models.keep("trial", order(5), own(5))
    assert value_before(7) == 6


@pytest.mark.parametrize("sequence", [1, 2, 5, 9])
def test_another_experiment_of_the_same_name_before_is_not_gone_on_with_and_forgotten(folder, sequence):
    for number in (4, 5):
        own_models.keep("trial", order(number, begun=500.0), own(-1))
    assert value_before(sequence) is None
    own_models.keep("trial", order(sequence), own(1))
    assert names(folder) == [f"after-{sequence}.safetensors"]
    assert value_before(sequence + 1) == 1


def test_sites_and_experiments_do_not_meet(folder):
    own_models.keep("trial", order(1), own(1))
    assert own_models.before("other", order(2)) == {}
    other = Order(site="ab", sequence=2, base_version=0, issued=0, attempt=1, seed=1, begun=1000.5)
    assert own_models.before("trial", other) == {}


def test_nobody_else_can_enter_the_sites_folder(folder):
    before = os.umask(0)
    try:
        own_models.keep("trial", order(1), own(1))
        own_models.save("trial", order(2), make_spec(), zeros())
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names(folder) == ["after-1.safetensors", "model.safetensors"]


DIES = """
import os, sys
from safetensors import numpy
from tasks import own_models
from tests.test_own_models import order, own
write = own_models.save_file
def die(arrays, path, metadata):
    write(arrays, path, metadata)
    os.truncate(path, path.stat().st_size // 2)
    os._exit(9)
own_models.save_file = die
own_models.keep("trial", order(int(sys.argv[1])), own(-1))
"""


def test_a_worker_that_dies_while_it_writes_leaves_what_was_there(folder):
    own_models.keep("trial", order(1), own(1))
    own_models.keep("trial", order(2), own(2))
    for number in (2, 3):
        done = subprocess.run([sys.executable, "-c", DIES, str(number)], check=False)
        assert done.returncode == 9
        assert (value_before(2), value_before(3), value_before(4)) == (1, 2, 2)
    own_models.keep("trial", order(3), own(3))
    assert value_before(4) == 3
    assert not [name for name in names(folder) if "3.unfinished" in name]


def test_a_write_that_fails_leaves_nothing_half_done(folder):
    own_models.keep("trial", order(1), own(1))
    with pytest.raises(Exception, match="object"):
        own_models.keep("trial", order(2), {"weight": np.array([None])})
    assert names(folder) == ["after-1.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "cut"])
def test_what_is_damaged_is_left_out_and_said_and_the_one_before_it_is_taken(folder, caplog, damage):
    for number in (1, 2):
        own_models.keep("trial", order(number), own(number))
    path = folder / "after-2.safetensors"
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    assert value_before(3) == 1
    assert "after-2.safetensors: what the site has kept cannot be read, and is left out" in caplog.text
    own_models.keep("trial", order(3), own(3))
    assert names(folder) == ["after-1.safetensors", "after-3.safetensors"]


def test_the_finished_model_is_one_that_predict_takes_and_the_next_takes_its_place(folder):
    for value in (1.0, 2.0):
        path = own_models.save("trial", order(3), make_spec(), {k: v + value for k, v in zeros().items()})
        spec, params = model_file.load(path)
        assert (spec, params["weight"][0, 0]) == (make_spec(), value)
    assert path == folder / "model.safetensors"
    assert names(folder) == ["model.safetensors"]


@pytest.mark.parametrize("name", ["..", "../../etc", "/etc", "a/b", "", ".", "A", "a\n", "-a"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    elsewhere = Order(site=name, sequence=1, base_version=0, issued=0.0, attempt=1, seed=1)
    for act in (
        lambda: own_models.before(name, order(1)),
        lambda: own_models.keep(name, order(1), own(1)),
        lambda: own_models.save("trial", elsewhere, make_spec(), zeros()),
    ):
        with pytest.raises(MalformedMessage, match="expected the name of an experiment or a site"):
            act()
    assert not list(tmp_path.rglob("*"))
