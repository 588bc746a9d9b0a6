import dataclasses

import pytest

from tasks import keys, messages
from tasks.bell import Call
from tasks.messages import Announcement, Offer
from tasks.offers import Offers
from tasks.site_ledger import SiteLedger
from tests.machine import wait_until
from tests.test_sources import CLEVELAND, HEADER
from workers.errors import MalformedMessage
from workers.source_settings import CsvSource, ParquetSource

HEART = CsvSource(name="heart", path=CLEVELAND, header=HEADER)


def test_sizes_are_told_once_they_are_known(tmp_path, caplog):
    offers = Offers([HEART, ParquetSource(name="gone", path=tmp_path / "gone.parquet")])
    unknown = [Offer(name="heart", format="csv"), Offer(name="gone", format="parquet")]
    assert offers.current() == unknown
    offers.start()
    wait_until(lambda: caplog.messages)
    heart = Offer(name="heart", format="csv", num_examples=303, num_columns=14)
    assert offers.current() == [heart, unknown[1]]
    assert caplog.messages[0].startswith("data set gone: expected a Parquet file that can be read")
    assert Offers().current() == []


def test_an_announcement_tells_of_the_data_sets_and_nothing_that_is_in_them(client):
    offers = Offers([HEART])
    offers.start()
    wait_until(lambda: offers.current()[0].num_examples)
    SiteLedger(client).announce(["lakeside"], "fedelta", Call(kind="here"), offers.current())
    stored = client.get(keys.site("lakeside"))
    said = messages.decode(Announcement, stored)
    assert [dataclasses.asdict(offer) for offer in said.datasets] == [
        {"name": "heart", "format": "csv", "num_examples": 303, "num_columns": 14}
    ]
    assert (said.num_examples("heart"), said.num_examples("other"), said.num_examples(None)) == (
        303,
        None,
        None,
    )
    assert b"trestbps" not in stored and str(CLEVELAND.parent).encode() not in stored


def announcement(**changes):
    offer = {"name": "heart", "format": "csv", "num_examples": 303, "num_columns": 14, **changes}
    return {"v": 1, "seen": 5.0, "software": "fedelta", "datasets": [offer]}


@pytest.mark.parametrize(
    "written",
    [
        announcement(name="Heart\x1b[2J"),
        announcement(name="x" * 64),
        announcement(format="exe"),
        announcement(num_examples=-1),
        announcement(num_examples=2**53),
        announcement(num_examples="303"),
        announcement(num_columns=1.5),
        announcement(path="/data/heart.csv"),
        {**announcement(), "datasets": announcement()["datasets"] * 33},
        {**announcement(), "datasets": {"heart": 303}},
        {**announcement(), "datasets": ["heart"]},
    ],
)
def test_what_is_no_offer_is_refused(written):
    with pytest.raises(MalformedMessage, match="Announcement: datasets"):
        messages.decode(Announcement, messages.msgpack.packb(written))
