"""Who gets in at Redis's door: `doctor` knocks without TLS, without a certificate, and without a name."""

import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import parse_qs, urlsplit

from orchestrator import findings
from orchestrator.findings import Finding
from tasks.connection import Connection
from workers.errors import SettingsError

Answer: TypeAlias = Literal["lets in", "asks who", "hangs up", "is silent"]

PATIENCE_SECONDS = 5.0
REDIS_PORT = 6379


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where Redis is, as it is reached by us and by a stranger; without TLS where a context is None."""

    host: str
    port: int
    ours: ssl.SSLContext | None
    stranger: ssl.SSLContext | None


def of_connection(found: Connection) -> Door:
    """The door of a connection over mutual TLS.

    Raises:
        SettingsError: its certificates cannot be read.
    """
    parts = urlsplit(found.url)
    try:
        ours, stranger = (ssl.create_default_context(cafile=str(found.ca)) for _ in range(2))
        ours.load_cert_chain(str(found.certificate), str(found.key))
    except (OSError, ValueError) as error:  # ssl's own error is an OSError
        raise SettingsError(
            f"expected certificates and a key in PEM in {found.ca}, {found.certificate}, {found.key}: {error}"
        ) from error
    return Door(host=parts.hostname or "", port=parts.port or REDIS_PORT, ours=ours, stranger=stranger)


def of_url(url: str) -> Door:
    """The door of a trial's Redis."""
    parts = urlsplit(url)
    context = None
    if parts.scheme == "rediss":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # knocks, and says nothing secret
    return Door(
        host=parts.hostname or "localhost", port=parts.port or REDIS_PORT, ours=context, stranger=context
    )


def knock(host: str, port: int, context: ssl.SSLContext | None) -> Answer:
    """What Redis answers to a PING of somebody who says no name."""
    try:
        with socket.create_connection((host, port), PATIENCE_SECONDS) as plain:
            door = context.wrap_socket(plain, server_hostname=host) if context else plain
            with door:
                door.sendall(b"PING\r\n")
                said = door.recv(64)
    except TimeoutError:
        return "is silent"
    except OSError:
        return "hangs up"
    if said.startswith((b"+PONG", b"-NOPERM")):  # the latter to somebody who may do other things
        return "lets in"
    return "asks who" if said.startswith(b"-") else "hangs up"


def server_certificate(door: Door) -> tuple[str, bytes] | None:
    """The protocol, and the certificate that the server shows, in PEM; None where there is no TLS."""
    if door.ours is None:
        return None
    try:
        with (
            socket.create_connection((door.host, door.port), PATIENCE_SECONDS) as plain,
            door.ours.wrap_socket(plain, server_hostname=door.host) as encrypted,
        ):
            shown = encrypted.getpeercert(binary_form=True)
            return encrypted.version() or "TLS", ssl.DER_cert_to_PEM_cert(shown or b"").encode()
    except OSError:
        return None


def look_at(door: Door, plain_ports: Sequence[int]) -> Iterator[Finding]:
    """Knock: at these ports without TLS, and without a certificate, and without a name."""
    answers = {port: knock(door.host, port, None) for port in sorted({door.port, *plain_ports})}
    yield of_plain_text(answers)
    without_certificate = knock(door.host, door.port, door.stranger)
    yield of_certificates(without_certificate)
    without_name = knock(door.host, door.port, door.ours)
    # Where we have no certificate to show, one that is asked for keeps us from asking more.
    is_kept_out = door.ours is door.stranger and without_name == "hangs up"
    yield of_names("is silent" if is_kept_out else without_name)


def of_plain_text(answers: dict[int, Answer]) -> Finding:
    """Whether Redis talks without TLS, by port."""
    talks = [port for port, answer in answers.items() if answer in ("lets in", "asks who")]
    return findings.of_fact(
        "plain text",
        f"nobody talks without TLS at port {_listed(list(answers))}",
        f"Redis talks without TLS at port {_listed(talks)}: whoever is on the way reads it" if talks else "",
        "set port 0, and tls-port",
    )


def of_certificates(answer: Answer) -> Finding:
    """Whether a client must show a certificate."""
    check = "client certificates"
    if answer == "is silent":
        return findings.unknown(check, "Redis did not answer who showed none")
    return findings.of_fact(
        check,
        "who shows none is not let in",
        "" if answer == "hangs up" else "Redis talks to whoever shows none",
        "set tls-auth-clients yes",
    )


def of_names(answer: Answer) -> Finding:
    """Whether a client must say who it is."""
    check = "without a name"
    if answer in ("hangs up", "is silent"):
        return findings.unknown(check, "Redis did not answer who gave no name")
    return findings.of_fact(
        check,
        "nobody may do anything",
        "" if answer == "asks who" else "whoever gets there is let in without a password",
        "turn the user default off, as fedelta init-centre does",
    )


def of_encryption(url: str) -> Finding:
    """Whether a trial's URL asks for TLS, and for the server to prove who it is."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Finding(mark="ok", check="encryption", found="a socket of this machine, which needs none")
    advice = "make a centre with fedelta init-centre, and use FEDELTA_CONNECTION"
    mistake = "no TLS: whoever is on the way reads and changes everything, passwords too"
    if parts.scheme == "rediss":
        asked = parse_qs(parts.query)
        is_verified = asked.get("ssl_cert_reqs", ["required"])[-1].lower() in (
            "required",
            "cert_required",
        ) and asked.get("ssl_check_hostname", ["true"])[-1].lower() in ("true", "yes", "1")
        mistake = "" if is_verified else "TLS, but the server need not prove that it is the one"
    return findings.of_fact("encryption", "TLS, and the server is verified", mistake, advice)


def _listed(ports: list[int]) -> str:
    return ", ".join(map(str, ports))
