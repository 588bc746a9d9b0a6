"""The environment variables that fedelta reads; no other module reads any.

FEDELTA_CONNECTION       a file with a table [connection]: Redis over TLS, as in every deployment
FEDELTA_SITE_FILE        the site.toml of the hospital whose worker this is (`fedelta worker --site`)
FEDELTA_BROKER_URL       or, for trials: where Celery's queues are (redis://, rediss://, redis+socket://)
FEDELTA_LEDGER_URL       where the ledger is (redis://, rediss://, unix://); by default the broker's Redis
FEDELTA_RUNS_DIR         where results go; by default `runs` in the current directory
FEDELTA_CACHE_DIR        where compiled training functions and fetched data are; by default ~/.cache/fedelta
FEDELTA_DATA_DIR         a folder that has files of data sets already; by default none
FEDELTA_METRICS_ADDRESS  <address>:<port> at which the coordinator has its Prometheus metrics; by default none
FEDELTA_LOGIN_FILE       a file with <user>:<password>, the login of Flower
FEDELTA_PERSONAL_DIR     where a site's own models are kept; by default `personal` in the cache's folder
FEDELTA_ALIVE_FILE       a file that a process touches while it is at work; by default none
FEDELTA_OWN_BEAT         "no" for a coordinator whose clock is a process of its own (`fedelta beat`)
FEDELTA_FAULT            in tests alone: where the process is to die or to stand still (`hooks`)
FEDELTA_ADMIN_REDIS      where the centre's Redis is seen from here, for `add-site`, `remove-site`, `doctor`

A secret is never in a variable or an argument, which others can see; the variables name files.
"""

import os
from pathlib import Path

from workers.errors import SettingsError


def connection_file() -> Path | None:
    """The file that says how Redis is reached."""
    chosen = os.environ.get("FEDELTA_CONNECTION")
    return Path(chosen) if chosen else None


def site_file() -> Path | None:
    """The file of the one site whose worker this process is."""
    chosen = os.environ.get("FEDELTA_SITE_FILE")
    return Path(chosen) if chosen else None


def set_site_file(path: Path | None) -> None:
    """Be the worker of this file's site, or of a trial's sites, here and in processes started from here."""
    os.environ.pop("FEDELTA_SITE_FILE", None)
    if path is not None:
        os.environ["FEDELTA_SITE_FILE"] = str(path.absolute())


def broker_url() -> str | None:
    """The broker's URL, where no file says it."""
    return os.environ.get("FEDELTA_BROKER_URL") or None


def ledger_url() -> str | None:
    """The ledger's URL, where no file says it; None where neither it nor a broker is configured."""
    url = os.environ.get("FEDELTA_LEDGER_URL") or broker_url()
    return as_ledger_url(url) if url else None


def has_broker() -> bool:
    """Whether a broker is configured."""
    return connection_file() is not None or broker_url() is not None


def as_ledger_url(broker_url: str) -> str:
    """The Redis client's URL for the Redis that Celery calls so."""
    return broker_url.replace("redis+socket://", "unix://", 1)


def set_broker(url: str) -> None:
    """Use this broker, and its Redis as the ledger, here and in the processes started from here."""
    os.environ["FEDELTA_BROKER_URL"] = url
    os.environ.pop("FEDELTA_LEDGER_URL", None)
    os.environ.pop("FEDELTA_CONNECTION", None)


def set_connection(path: Path) -> None:
    """Use this file's connection, here and in the processes started from here."""
    for name in ("FEDELTA_BROKER_URL", "FEDELTA_LEDGER_URL"):
        os.environ.pop(name, None)
    os.environ["FEDELTA_CONNECTION"] = str(path.absolute())


def set_own_beat(is_own: bool) -> None:
    """Whether the coordinator started from here has a clock of its own."""
    os.environ["FEDELTA_OWN_BEAT"] = "yes" if is_own else "no"


def has_own_beat() -> bool:
    """Whether the coordinator has its clock in itself."""
    return os.environ.get("FEDELTA_OWN_BEAT") != "no"


def runs_dir() -> Path:
    """The folder that holds one folder per run."""
    return Path(os.environ.get("FEDELTA_RUNS_DIR") or "runs")


def cache_dir() -> Path:
    """The folder of what can be made again."""
    chosen = os.environ.get("FEDELTA_CACHE_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "fedelta"


def data_dir() -> Path | None:
    """The folder that has files of data sets already."""
    chosen = os.environ.get("FEDELTA_DATA_DIR")
    return Path(chosen) if chosen else None


def fetched_dir() -> Path:
    """The folder into which `fedelta data fetch` writes."""
    return cache_dir() / "data"


def data_folders() -> tuple[Path, ...]:
    """Where files of data sets are looked for, in this order."""
    given = data_dir()
    return (given, fetched_dir()) if given else (fetched_dir(),)


def personal_dir() -> Path:
    """The folder of the models that stay at their sites."""
    chosen = os.environ.get("FEDELTA_PERSONAL_DIR")
    return Path(chosen) if chosen else cache_dir() / "personal"


def set_personal_dir(folder: Path) -> None:
    """Keep the sites' own models in this folder, here and in the processes started from here."""
    os.environ["FEDELTA_PERSONAL_DIR"] = str(folder.absolute())


def alive_file() -> Path | None:
    """The file that a process touches while it is at work."""
    chosen = os.environ.get("FEDELTA_ALIVE_FILE")
    return Path(chosen) if chosen else None


def metrics_address() -> tuple[str, int] | None:
    """Where the coordinator's metrics are to be had.

    Raises:
        SettingsError: it is no address and port.
    """
    chosen = os.environ.get("FEDELTA_METRICS_ADDRESS")
    if not chosen:
        return None
    address, _, port = chosen.rpartition(":")
    if not address or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise SettingsError(
            f"FEDELTA_METRICS_ADDRESS: expected <address>:<port>, such as 127.0.0.1:9540, got {chosen!r}"
        )
    return address, int(port)


def admin_redis() -> str | None:
    """Where the centre's Redis is, for whoever administers it from another place than its host."""
    return os.environ.get("FEDELTA_ADMIN_REDIS") or None


def login_file() -> Path | None:
    """The file that holds Flower's login."""
    chosen = os.environ.get("FEDELTA_LOGIN_FILE")
    return Path(chosen) if chosen else None


def fault() -> str | None:
    """At which moment a test lets this process die or stand still."""
    return os.environ.get("FEDELTA_FAULT") or None
