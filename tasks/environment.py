"""The environment variables that fedelta reads; no other module reads any.

FEDELTA_BROKER_URL   where Celery's queues are (redis://, rediss://, redis+socket://, sentinel://)
FEDELTA_LEDGER_URL   where the ledger is (redis://, rediss://, unix://); by default the broker's Redis
FEDELTA_RUNS_DIR     where results go; by default `runs` in the current directory
FEDELTA_CACHE_DIR    where compiled training functions are kept; by default ~/.cache/fedelta
"""

import os
from pathlib import Path


def broker_url() -> str | None:
    """The broker's URL, or None where none is configured."""
    return os.environ.get("FEDELTA_BROKER_URL") or None


def ledger_url() -> str | None:
    """The ledger's URL, or None where neither it nor a broker is configured."""
    url = os.environ.get("FEDELTA_LEDGER_URL") or broker_url()
    return as_ledger_url(url) if url else None


def as_ledger_url(broker_url: str) -> str:
    """The Redis client's URL for the Redis that Celery calls so."""
    return broker_url.replace("redis+socket://", "unix://", 1)


def set_broker(url: str) -> None:
    """Use this broker, and its Redis as the ledger, here and in the processes started from here."""
    os.environ["FEDELTA_BROKER_URL"] = url
    os.environ.pop("FEDELTA_LEDGER_URL", None)


def runs_dir() -> Path:
    """The folder that holds one folder per run."""
    return Path(os.environ.get("FEDELTA_RUNS_DIR") or "runs")


def cache_dir() -> Path:
    """The folder of what can be made again."""
    chosen = os.environ.get("FEDELTA_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "fedelta"
