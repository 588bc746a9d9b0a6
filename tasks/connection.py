"""How a process reaches the centre's Redis: the `[connection]` table of its file, over mutual TLS.

    [connection]
    url = "rediss://fedelta.example.org:6379/0"
    username = "site.lakeside"
    password_file = "password"     # beside this file, and so are
    ca = "ca.crt"                  # who signed the server's certificate,
    certificate = "client.crt"     # what we show,
    key = "client.key"             # and that it is ours

The password is in a file of its own, so that this one can be shown, compared and mailed.
"""

import os
import ssl
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tasks import environment
from workers.errors import SettingsError
from workers.settings import explain


class Connection(BaseModel):
    """Where Redis is, who we are, and how both are proven."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    username: str
    password_file: Path
    ca: Path
    certificate: Path
    key: Path

    @field_validator("url")
    @classmethod
    def _is_encrypted(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "rediss" or not parts.hostname or "@" in url or parts.query:
            raise ValueError("expected rediss://<host>:<port>/<database>, with no user or password in it")
        return url

    @property
    def url_with_password(self) -> str:
        """The URL as Celery and the Redis client take it; never to be shown."""
        scheme, rest = self.url.split("://", 1)
        return f"{scheme}://{quote(self.username, safe='')}:{quote(self._password(), safe='')}@{rest}"

    @property
    def tls(self) -> dict[str, Any]:
        """The TLS options, as Celery and the Redis client take them."""
        return {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": True,
            "ssl_ca_certs": str(self.ca),
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.key),
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }

    def _password(self) -> str:
        return read_text(self.password_file).strip()


def current() -> Connection | None:
    """The connection of the file that the environment names, or None where it names none.

    Raises:
        SettingsError: the file is wrong, or the environment names a broker, too.
    """
    path = environment.connection_file()
    if path is None:
        return None
    if environment.ledger_url():
        raise SettingsError("expected FEDELTA_CONNECTION or FEDELTA_BROKER_URL, got both")
    return _read_once(path)


def broker_url() -> str | None:
    """The broker's URL, with the password in it; None where none is configured."""
    found = current()
    return found.url_with_password if found else environment.broker_url()


def ledger_url() -> str | None:
    """The ledger's URL, with the password in it; None where none is configured."""
    found = current()
    return found.url_with_password if found else environment.ledger_url()


def tls() -> dict[str, Any] | None:
    """The TLS options of both; None where no file says them."""
    found = current()
    return found.tls if found else None


def read(path: Path, url: str | None = None) -> Connection:
    """The `[connection]` of this file, whatever else is in it; its file names start from its folder.

    `url` is where Redis is seen from here, if not where the file says.

    Raises:
        SettingsError: it cannot be read, says something wrong, or names a file that is not there.
    """
    written = read_toml(path)
    table = written.get("connection")
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: expected a table [connection]")
    try:
        found = Connection.model_validate({**table, "url": url} if url else table)
    except ValidationError as error:
        # What was written is not repeated: it may be a password in a place where none should be.
        mistakes = "\n".join(f"  connection.{line.partition(', got ')[0]}" for line in explain(error, table))
        raise SettingsError(f"{path}: nothing was started, because of\n{mistakes}") from error
    places = {
        name: path.parent / getattr(found, name) for name in ("password_file", "ca", "certificate", "key")
    }
    for name, place in places.items():
        if not os.path.isfile(place):  # unlike pathlib's, of any text
            raise SettingsError(f"{path}: connection.{name}: there is no file {place}")
    return found.model_copy(update=places)


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables.

    Raises:
        SettingsError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # a number too long, lists nested too deep
        raise SettingsError(f"{path}: is not TOML: {error}") from error


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: cannot be read: it is not text") from None


_read_once = cache(read)
