import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from orchestrator import fetching
from tests.conftest import PUBLISHED
from workers import datasets, originals
from workers.catalogue import CATALOGUE
from workers.errors import DataError, Unavailable

FILES = [original.name for original in CATALOGUE["khan"].originals]


@dataclass
class Publisher:
    """A publisher's server: what it was asked for, and what is wrong with some of its files."""

    address: str
    asked: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def publisher(monkeypatch) -> Iterator[Publisher]:
    """It has the files of Khan, at the addresses that the catalogue then names."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            found.asked.append(name)
            fault, body = found.faults.get(name), (PUBLISHED / "khan" / name).read_bytes()
            if fault == "missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "changed":
                body = b"0" + body[1:]
            self.wfile.write(body[: len(body) // 2] if fault == "cut off" else body)

        def log_message(self, *_):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Publisher(address=f"http://127.0.0.1:{server.server_port}")
    point_to(monkeypatch, found.address)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def point_to(monkeypatch, address):
    moved = [replace(original, url=f"{address}/{original.name}") for original in CATALOGUE["khan"].originals]
    monkeypatch.setitem(CATALOGUE, "khan", replace(CATALOGUE["khan"], originals=tuple(moved)))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where the files of Khan are to go: a cache that is empty, and no folder with files already there."""
    monkeypatch.setattr(originals, "_folders", ())
    monkeypatch.setenv("FEDELTA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDELTA_DATA_DIR")
    return tmp_path / "cache" / "data" / "khan"


def contents(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_data_set_that_was_fetched_is_in_the_cache_and_is_the_published_one(publisher, cache):
    assert fetching.fetch("khan") == {name: cache / name for name in FILES}
    assert contents(cache) == sorted(FILES)
    fetched = datasets.load("khan", 0)
    originals.use([PUBLISHED])
    np.testing.assert_array_equal(fetched.features, datasets.load("khan", 0).features)


def test_a_line_for_each_file_says_how_much_has_come(publisher, capsys):
    fetching.fetch("khan")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == FILES
    assert lines[0].rstrip().endswith("1.5/1.5 MB")


def test_what_was_fetched_is_not_fetched_again(publisher):
    fetching.fetch("khan")
    fetching.fetch("khan")
    assert publisher.asked == FILES


def test_what_lies_in_the_given_folder_is_not_fetched(publisher, cache, monkeypatch):
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(PUBLISHED))
    assert fetching.fetch("khan") == {name: PUBLISHED / "khan" / name for name in FILES}
    assert publisher.asked == [] and not cache.exists()


def test_a_wrong_file_in_the_given_folder_is_named_since_it_would_go_on_being_used(
    publisher, monkeypatch, tmp_path
):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / FILES[0]).write_text("something else")
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(tmp_path / "given"))
    with pytest.raises(
        DataError, match=f"khan: {tmp_path}/given/{FILES[0]} is not the file that was published"
    ):
        fetching.fetch("khan")


def test_a_file_with_other_contents_is_refused_and_not_kept(publisher, cache):
    publisher.faults[FILES[1]] = "changed"
    with pytest.raises(DataError) as raised:
        fetching.fetch("khan")
    assert str(raised.value).startswith(
        f"{publisher.address}/{FILES[1]} is not the file that was published, and is not kept: "
    )
    assert contents(cache) == [FILES[0]]


@pytest.mark.parametrize("fault", ["cut off", "missing"])
def test_a_download_that_breaks_off_leaves_nothing_and_goes_on_from_the_next_file(publisher, cache, fault):
    publisher.faults[FILES[2]] = fault
    with pytest.raises(
        Unavailable, match=f"^{publisher.address}/{FILES[2]} could not be downloaded to {cache}: "
    ):
        fetching.fetch("khan")
    assert contents(cache) == sorted(FILES[:2])
    with pytest.raises(DataError, match="Khan_xtest.csv is not here"):
        datasets.load("khan", 0)
    publisher.faults.clear()
    fetching.fetch("khan")
    assert publisher.asked == FILES[:3] + FILES[2:]
    assert len(datasets.load("khan", 0)) == 83


def test_ctrl_c_leaves_nothing_half_done(publisher, cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching._Bar, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetching.fetch("khan")
    assert contents(cache) == []


def test_a_file_in_the_cache_that_was_damaged_is_fetched_anew(publisher, cache):
    fetching.fetch("khan")
    (cache / FILES[3]).write_text("damaged")
    fetching.fetch("khan")
    assert publisher.asked == [*FILES, FILES[3]]
    assert (cache / FILES[3]).read_bytes() == (PUBLISHED / "khan" / FILES[3]).read_bytes()


def test_a_publisher_that_does_not_answer_is_unavailable(cache, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        point_to(monkeypatch, address)
        with pytest.raises(Unavailable, match=f"^{address}/{FILES[0]} could not be downloaded"):
            fetching.fetch("khan")
    assert contents(cache) == []


def test_a_cache_that_cannot_be_written_is_named(publisher, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDELTA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(Unavailable, match=f"could not be downloaded to {tmp_path}/file/data/khan: "):
        fetching.fetch("khan")


def test_files_that_were_fetched_for_one_are_looked_for_by_all(publisher, cache, tmp_path):
    shutil.copytree(PUBLISHED / "medmnist", tmp_path / "cache" / "data" / "breastmnist")
    assert list(fetching.fetch("breastmnist")) == ["breastmnist.npz"]
    assert publisher.asked == []
