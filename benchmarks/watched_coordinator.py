"""`tasks.coordinator`, which notes the moments of the updates that it takes in."""

from typing import Any

from benchmarks import moments
from tasks import aggregate, messages
from tasks.bell import Call
from tasks.coordinator import app
from tasks.messages import Submission
from tasks.reception import Reception
from tasks.turn import Turn

__all__ = ["app"]

_folded: list[str] = []  # sites, in the turn that it is
_site = "-"  # whose delta is looked at


def _heard(_reception: Reception, _client: object, site: str, call: Call) -> None:
    if call.kind == "submitted":
        moments.note("heard", site)


def _begun(_turn: Turn, site: str, *_: object) -> None:
    global _site
    _site = site
    moments.note("begun", site)


def _fetched(kind: type, *_: object) -> None:
    if kind is Submission:
        moments.note("fetched", _site)


def _decoded(_turn: Turn, site: str, *_: object) -> None:
    moments.note("decoded", site)


def _has_folded(_turn: Turn, _so_far: object, site: str, *_: object) -> None:
    moments.note("folded", site)
    _folded.append(site)


def _committing(*_: object) -> None:
    for site in _folded:
        moments.note("committing", site)


def _committed(*_: Any) -> None:
    for site in _folded:
        moments.note("committed", site)
    _folded.clear()


moments.around(Reception, "answer", _heard, moments.nothing)
moments.around(Turn, "submission", _begun, _decoded)
moments.around(messages, "decode", _fetched, moments.nothing)
moments.around(aggregate, "accept", moments.nothing, _has_folded)
moments.around(Turn, "commit", _committing, _committed)
