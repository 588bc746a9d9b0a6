"""Whether a deployment is safe: `doctor` looks at files, tries Redis's door, asks Redis, says what it finds.

A centre is looked at as its admin, who sees Redis but no data, and as its operator, who sees data. Whoever
else asks is told what can be found out with the rights at hand, and what cannot.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator import access, centre, certificates, doors, findings, questions
from orchestrator.centre import Centre
from orchestrator.doors import REDIS_PORT, Door
from orchestrator.findings import Finding
from tasks import connection, environment
from tasks.app import connect_by, connect_to
from tasks.connection import Connection
from workers.errors import SettingsError

OWN_FILES = ("password_file", "key", "certificate", "ca")  # of a connection


def examine_centre(folder: Path, redis_url: str | None) -> Iterator[Finding]:
    """Everything about a centre; `redis_url` is where its Redis is seen from here.

    Raises:
        NotFound: there is no centre in the folder.
        SettingsError: its files cannot be read.
        Unavailable: Redis does not answer; what its files say has been found before.
    """
    opened = centre.open_centre(folder)
    yield from _centre_files(opened)
    admin = centre.admin_connection(opened, redis_url)
    door = doors.of_connection(admin)
    with connect_by(admin) as client:
        config = questions.config(client)
        yield from _door(door, [int(config.get("port", 0))])
        yield from questions.of_server(client, config)
        yield from questions.asked("users", lambda: questions.of_users(client, opened))
    operator = opened.folder / access.OPERATOR / "connection.toml"
    if not operator.is_file():
        yield findings.unknown("coordinator and sites", f"{operator} is not here, so nobody can be asked")
        return
    with connect_by(connection.read(operator, url=admin.url)) as client:
        yield from questions.asked(
            "coordinator and sites", lambda: questions.of_presence(client, centre.sites(opened))
        )


def examine_site(file: Path, name: str) -> Iterator[Finding]:
    """What a hospital can find out about its own access.

    Raises:
        SettingsError: the file is wrong.
        Unavailable: Redis does not answer, or does not let the site in.
    """
    found = connection.read(file)
    yield findings.of_fact(
        "user",
        "not root",
        "" if os.getuid() else "this runs as root: a fault in it would be a fault in your machine",
        "let FEDELTA_USER in .env name somebody else, who owns this folder",
        mark="warning",
    )
    yield from _examine_connection(found)
    with connect_by(found) as client:
        yield from questions.asked("own work", lambda: [questions.of_own_queue(client, name)])


def examine_environment() -> Iterator[Finding]:
    """Whatever FEDELTA_CONNECTION or FEDELTA_BROKER_URL names, with the rights that it gives.

    Raises:
        SettingsError: neither is set, or the file is wrong.
        Unavailable: Redis does not answer.
    """
    found, url = connection.current(), connection.ledger_url()
    if found is not None:
        yield from _examine_connection(found)
    elif url is not None:
        broker = environment.as_ledger_url(connection.broker_url() or url)
        for each in dict.fromkeys((url, broker)):
            yield from _examine_url(each)
    else:
        raise SettingsError(
            "expected --centre DIR or --site site.toml, or FEDELTA_CONNECTION or FEDELTA_BROKER_URL to be set"
        )


def _examine_connection(found: Connection) -> Iterator[Finding]:
    """What somebody who may not look at the server can find out about a connection."""
    folder = found.key.parent
    yield from findings.of_modes(folder, _modes([folder, *(getattr(found, name) for name in OWN_FILES)]))
    yield _certificate("the authority", found.ca, "ask the centre for a new one")
    yield _certificate(found.username, found.certificate, "ask the centre for new credentials")
    door = doors.of_connection(found)
    with connect_by(found) as client:
        yield from _door(door, [REDIS_PORT])
        if found.username == access.ADMIN:
            yield from questions.of_server(client, questions.config(client))
            return
        yield from questions.asked("Redis", lambda: [questions.of_version(client)])
        yield from questions.asked("clock", lambda: [questions.of_clock(client)])
    # To try what is forbidden would only fill the centre's list of denials.
    yield findings.unknown(
        "the server",
        f"persistence, eviction, memory, protected mode and users' rules are not for {found.username} to see",
        "ask the centre for what its fedelta doctor --centre says",
    )


def _examine_url(url: str) -> Iterator[Finding]:
    """A trial's Redis."""
    client = connect_to(url)
    config = questions.config(client)
    yield doors.of_encryption(url)
    if urlsplit(url).scheme == "unix":
        socket = Path(urlsplit(url).path)
        yield from findings.of_modes(socket.parent, _modes([socket.parent]))
    else:
        door = doors.of_url(url)
        if door.ours is None:
            yield doors.of_names(doors.knock(door.host, door.port, None))
        else:
            yield from doors.look_at(door, [int(config.get("port", 0))])
    yield from questions.of_server(client, config)


def _door(door: Door, plain_ports: Iterable[int]) -> Iterator[Finding]:
    """What can be found out from outside, and how long the server's certificate is good."""
    shown = doors.server_certificate(door)
    if shown is None:
        yield findings.unknown("encryption", "the server's certificate could not be looked at")
    else:
        protocol, certificate = shown
        found = f"{protocol}, and the server is who its certificate says"
        yield Finding(mark="ok", check="encryption", found=found)
        days, advice = (
            certificates.days_left(certificate),
            "fedelta renew-centre makes a new one, at the centre",
        )
        yield findings.of_certificate("the server, as it shows it", days, advice)
    yield from doors.look_at(door, [port for port in plain_ports if port])


def _centre_files(opened: Centre) -> Iterator[Finding]:
    """What a centre's folder says without Redis."""
    folders = [path for path in centre.private_folders(opened) if path.is_dir()]
    secrets = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    yield from findings.of_modes(opened.folder, _modes([*folders, *secrets]))
    yield from findings.of_bundles(sorted((opened.folder / "sites").glob("*")))
    advice = "fedelta renew-centre makes a new one"
    for whose, path in centre.own_certificates(opened).items():
        if path.is_file():
            yield _certificate(whose, path, advice)


def _certificate(whose: str, path: Path, advice: str) -> Finding:
    """How long a certificate is still good.

    Raises:
        SettingsError: it is none.
    """
    try:
        days = certificates.days_left(connection.read_text(path).encode())
    except ValueError as error:
        raise SettingsError(f"{path}: expected a certificate in PEM") from error
    return findings.of_certificate(whose, days, advice)


def _modes(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mode for path in paths}
