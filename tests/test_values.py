import threading

import numpy as np
import pytest

from tasks import cache, codec, values
from tasks.codec import Parts
from workers.compression import Int8
from workers.errors import MalformedMessage

KEY = "fedelta:{trial}:model:3"
TREE = {"weight": np.arange(300_000, dtype=np.float32), "bias": np.ones(3, np.float32)}  # 1.2 MB
SMALL = {"weight": np.arange(10, dtype=np.float32)}


class Seen:
    """A Redis that counts the bytes it gives, and does something before an answer."""

    def __init__(self, client, before=lambda number: None):
        self.client, self.before = client, before
        self.num_answers = self.num_bytes = 0

    def getrange(self, key, first, last):
        self.before(self.num_answers)
        self.num_answers += 1
        answer = self.client.getrange(key, first, last)
        self.num_bytes += len(answer)
        return answer

    def hget(self, key, field):
        return self.client.hget(key, field)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(values, "PIECE", 100_000)


def decode(value):
    return codec.decode_tree(value, None)


def assert_same(tree, expected):
    assert list(tree) == list(expected)
    for path, leaf in tree.items():
        np.testing.assert_array_equal(leaf, expected[path], strict=True)


# Reading


def test_a_large_value_is_read_in_pieces_and_no_byte_twice_but_for_its_id(client):
    client.set(KEY, stored := codec.encode_tree(TREE))
    seen = Seen(client)
    assert values.read(seen, KEY) == stored
    assert seen.num_bytes == len(stored) + codec.PREFIX
    assert seen.num_answers == -(-len(stored) // 100_000) + 1


@pytest.mark.parametrize("value", [b"x", b"x" * 99_999, b"x" * 100_000, b"x" * 250_000])
def test_what_is_no_message_with_arrays_apart_is_read_as_it_is(client, value):
    client.set(KEY, value)
    assert values.read(client, KEY) == value
    assert values.read(client, "elsewhere") is None


@pytest.mark.parametrize("limit", [10, 99_999, 100_000, 150_000])
@pytest.mark.parametrize("value", [codec.encode_tree(TREE), b"x" * 1_200_000], ids=["arrays", "text"])
def test_of_what_is_too_large_a_byte_more_than_the_limit_is_read_in_the_end(client, value, limit):
    client.set(KEY, value)
    seen = Seen(client)
    assert values.read(seen, KEY, limit) == bytes(value)[: limit + 1]
    assert seen.num_bytes <= 100_000 + limit + 1


def test_a_value_that_is_written_anew_while_it_is_read_is_read_again(client):
    client.set(KEY, codec.encode_tree(TREE))
    new = codec.encode_tree({**TREE, "weight": -TREE["weight"]})
    seen = Seen(client, lambda number: number == 5 and client.set(KEY, new))
    assert values.read(seen, KEY) == new


def test_a_value_that_is_deleted_while_it_is_read_is_none(client):
    client.set(KEY, codec.encode_tree(TREE))
    assert values.read(Seen(client, lambda number: number == 5 and client.delete(KEY)), KEY) is None


@pytest.mark.parametrize("kept", [100_000, 100_001, 150_000, 1_199_000])
def test_of_a_message_that_says_it_is_longer_than_it_is_there_is_what_is_there(client, kept):
    value = bytes(codec.encode_tree(TREE))[:kept]
    client.set(KEY, value)
    assert values.read(client, KEY) == value
    with pytest.raises(MalformedMessage):
        decode(value)


# Remembering


@pytest.fixture
def memory():
    return cache.Cache(max_bytes=3_000_000)


def test_what_is_the_same_is_read_once(client, memory):
    client.set(KEY, stored := codec.encode_tree(TREE))
    tree, num_bytes = memory.tree(client, KEY, decode)
    assert_same(tree, TREE)
    assert num_bytes == len(stored)
    seen = Seen(client)
    again, num_bytes = memory.tree(seen, KEY, decode)
    assert again is tree and num_bytes == seen.num_bytes == codec.PREFIX


def test_the_same_numbers_written_again_are_something_else(client, memory):
    client.set(KEY, codec.encode_tree(TREE))
    memory.tree(client, KEY, decode)
    client.set(KEY, codec.encode_tree({**TREE, "bias": 2 * TREE["bias"]}))  # as after a loss of Redis
    assert memory.tree(client, KEY, decode)[0]["bias"].tolist() == [2.0, 2.0, 2.0]
    client.delete(KEY)
    assert memory.tree(client, KEY, decode) is None


def test_what_was_written_is_remembered_and_what_was_deleted_is_not(client, memory):
    client.set(KEY, stored := codec.encode_tree(TREE))
    memory.update({KEY: Parts(stored)}, [])
    seen = Seen(client)
    assert_same(memory.tree(seen, KEY, decode)[0], TREE)
    assert seen.num_bytes == codec.PREFIX
    memory.update({}, [KEY, "elsewhere"])
    memory.tree(seen, KEY, decode)
    assert seen.num_bytes > len(stored)


def is_read(client, memory, number):
    memory.tree(seen := Seen(client), f"{KEY}{number}", decode)
    return seen.num_bytes > codec.PREFIX


@pytest.mark.parametrize("others", [1, 2])
def test_beside_the_newest_no_more_is_remembered_than_may_be(client, others):
    memory = cache.Cache(max_bytes=2 * others * 1_210_000)
    for number in range(4):
        client.set(f"{KEY}{number}", codec.encode_tree(TREE))
        memory.tree(client, f"{KEY}{number}", decode)
    assert [is_read(client, memory, number) for number in (3, 2, 1)] == [False, False, others < 2]


def test_the_oldest_goes_first_though_it_was_asked_for_last(client):
    memory = cache.Cache(max_bytes=3_000_000)
    for number in (0, 1, 0, 2):
        client.set(f"{KEY}{number}", codec.encode_tree(TREE), nx=True)
        memory.tree(client, f"{KEY}{number}", decode)
    assert [is_read(client, memory, number) for number in (1, 2)] == [False, False]
    assert is_read(client, memory, 0)


def test_of_what_is_too_large_the_last_is_remembered_if_it_is_kept(client):
    client.set(f"{KEY}0", codec.encode_tree(TREE))
    for keeps_last in (True, False):
        tight = cache.Cache(max_bytes=10, keeps_last=keeps_last)
        tree, _ = tight.tree(client, f"{KEY}0", decode)
        tight.tree(seen := Seen(client), f"{KEY}0", decode)
        assert (seen.num_bytes == codec.PREFIX) == keeps_last
        assert tree["weight"].flags.writeable == (not keeps_last)


def test_small_trees_are_read_each_time(client, memory):
    client.set(KEY, stored := codec.encode_tree(SMALL))
    memory.update({KEY: Parts(stored)}, [])
    for _ in range(2):
        seen = Seen(client)
        assert_same(memory.tree(seen, KEY, decode)[0], SMALL)
        assert seen.num_bytes == len(stored)


def test_nobody_can_change_what_is_remembered(client, memory):
    client.set(KEY, stored := codec.encode_tree(TREE))
    read, _ = memory.tree(client, KEY, decode)
    memory.update({KEY: Parts(stored)}, [])
    written, _ = memory.tree(client, KEY, decode)
    for tree in (read, written):
        assert not any(leaf.flags.writeable for leaf in tree.values())


def test_nobody_can_change_what_is_remembered_of_a_value_that_is_decoded_into_arrays_of_its_own(
    client, memory
):
    client.set(KEY, codec.encode_tree(TREE))
    read, _ = memory.tree(
        client, KEY, lambda value: {path: leaf.copy() for path, leaf in decode(value).items()}
    )
    assert not any(leaf.flags.writeable for leaf in read.values())


def test_what_is_taken_is_the_takers_to_change_and_remembered_no_more(client, memory):
    client.set(KEY, stored := codec.encode_tree(TREE))
    memory.update({KEY: Parts(stored)}, [])
    for num_bytes in (codec.PREFIX, len(stored) + codec.PREFIX):
        taken = memory.take(seen := Seen(client), KEY, decode)
        assert_same(taken, TREE)
        assert seen.num_bytes == num_bytes
        for leaf in taken.values():
            leaf[...] = -1.0
    assert_same(memory.tree(client, KEY, decode)[0], TREE)
    assert memory.take(client, "elsewhere", decode) is None


def test_a_tree_that_was_written_is_remembered_where_it_lies_and_nobody_can_change_it_any_more(
    client, memory
):
    tree = {path: leaf.copy() for path, leaf in TREE.items()}
    message = codec.tree_in_parts(tree)
    client.set(KEY, message.whole)
    memory.update({KEY: message}, [])
    found, num_bytes = memory.tree(client, KEY, decode)
    assert num_bytes == codec.PREFIX and found["weight"] is tree["weight"]
    taken = memory.take(client, KEY, decode)
    assert taken["weight"] is tree["weight"] and not any(leaf.flags.writeable for leaf in taken.values())
    assert_same(decode(values.read(client, KEY)), TREE)


def test_of_a_compressed_tree_that_was_written_the_message_is_remembered(client, memory):
    coding = codec.Coding(Int8(), seed=3)
    message = codec.tree_in_parts(TREE, coding)
    client.set(KEY, message.whole)
    memory.update({KEY: message}, [])
    for _ in range(2):
        found, num_bytes = memory.tree(client, KEY, lambda value: codec.decode_tree(value, None, coding))
        assert num_bytes == codec.PREFIX
        assert_same(found, codec.decode_tree(message.whole, None, coding))


def test_what_others_have_read_is_not_changed_by_whoever_takes_it(client, memory):
    client.set(KEY, codec.encode_tree(TREE))
    shared, _ = memory.tree(client, KEY, decode)
    assert not any(leaf.flags.writeable for leaf in memory.take(client, KEY, decode).values())
    client.set(KEY, codec.encode_tree(SMALL))
    assert_same(memory.take(client, KEY, decode), SMALL)
    assert_same(shared, TREE)


def test_of_two_that_are_too_large_for_it_one_is_let_go_of_before_the_next_is_read(client):
    memory = cache.Cache(max_bytes=10, keeps_last=True)
    for number in (0, 1):
        client.set(f"{KEY}{number}", codec.encode_tree(TREE))
    held = []
    memory.tree(client, f"{KEY}0", decode)
    memory.tree(Seen(client, lambda _: held.append(len(memory._kept))), f"{KEY}1", decode)
    assert set(held) == {0} and len(memory._kept) == 1


def test_threads_that_want_the_same_read_it_once(client, memory):
    client.set(KEY, stored := codec.encode_tree(TREE))
    seen, found = Seen(client), []
    threads = [
        threading.Thread(target=lambda: found.append(memory.tree(seen, KEY, decode))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(num_bytes == len(stored) for _, num_bytes in found) == 1
    assert len(found) == 4


def test_a_tree_that_is_not_as_expected_is_not_remembered(client, memory):
    client.set(KEY, codec.encode_tree(TREE))

    def refuse(value):
        raise MalformedMessage("not like the reference")

    for _ in range(2):
        with pytest.raises(MalformedMessage):
            memory.tree(client, KEY, refuse)
    assert_same(memory.tree(client, KEY, decode)[0], TREE)
