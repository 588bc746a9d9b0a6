"""What Redis says of itself, of its users and of who is there, to whoever may ask it.

What it does not tell is unknown, which is not to say that it is well.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from orchestrator import access, centre, findings, rights
from orchestrator.centre import Centre
from orchestrator.findings import Finding
from orchestrator.rights import Command
from tasks import connection, keys, messages
from tasks.app import site_queue
from tasks.attendance import PRESENCE
from tasks.messages import Announcement
from tasks.presence import SOFTWARE
from workers.errors import MalformedMessage, Unavailable

CONFIG = ("port", "protected-mode", *findings.DANGEROUS)


def of_server(client: redis.Redis, config: Mapping[str, str]) -> Iterator[Finding]:
    """What Redis says of itself to who may ask."""
    yield from asked("the server", lambda: findings.of_info(client.info()))
    if config:
        yield from findings.of_config(config)
    else:
        yield findings.unknown("settings", "Redis does not tell us its protected mode and dangerous settings")
    yield from asked("default user", lambda: [rights.of_default(_acl_list(client))])
    yield from asked("clock", lambda: [of_clock(client)])


def asked(check: str, ask: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What is found by asking Redis; that it is unknown where Redis refuses to say it.

    Raises:
        Unavailable: Redis does not answer any more.
    """
    try:
        return list(ask())
    except redis.ResponseError:
        return [findings.unknown(check, "Redis does not tell us")]
    except redis.RedisError as error:
        raise Unavailable(f"Redis does not answer any more: {error}") from error


def config(client: redis.Redis) -> dict[str, str]:
    """Redis's settings, of which none is secret; empty where it does not tell."""
    try:
        found = {name: value for each in CONFIG for name, value in client.config_get(each).items()}
    except redis.ResponseError:
        return {}
    return {name: str(value) for name, value in found.items()}


def _acl_list(client: redis.Redis) -> list[str]:
    return [line.decode() if isinstance(line, bytes) else line for line in client.acl_list()]


def of_version(client: redis.Redis) -> Finding:
    """How old Redis is, which it says to everybody who is let in."""
    said: Any = client.execute_command("HELLO")
    if isinstance(said, list):  # RESP2 has no maps
        said = dict(zip(said[::2], said[1::2], strict=True))
    return findings.of_version(bytes(said[b"version"]).decode())


def of_clock(client: redis.Redis) -> Finding:
    """How far the clocks are apart."""
    seconds, microseconds = client.time()
    return findings.of_clock(seconds + microseconds / 1e6, time.time())


def of_users(client: redis.Redis, opened: Centre) -> Iterator[Finding]:
    """Users, their rules, and what was refused to them."""
    text, there = connection.read_text(opened.acl_file), _acl_list(client)
    written = text.splitlines()
    names = rights.categories_in([*written, *there])
    categories = {name: [str(command) for command in client.acl_cat(name)] for name in names}
    yield rights.of_acl_file(text, access.acl_file(centre.read_users(opened)))
    yield from rights.of_users(written, there, categories)
    yield rights.of_replay(_may(client, "default", rights.WRITES))
    sites = centre.sites(opened)
    for place, site in enumerate(sites):
        near = [other for other in sites[max(place - 1, 0) : place + 2] if other != site]
        yield from asked(f"rules of {site}", partial(_rules, client, site, near))
    yield from rights.of_denials(client.acl_log(), [line.split()[1] for line in there])


def _rules(client: redis.Redis, site: str, neighbours: list[str]) -> Iterator[Finding]:
    """Try a site's commands, without their being carried out."""
    commands = [*rights.own_work(site), *rights.no_business(site, neighbours)]
    yield rights.of_site(site, _may(client, access.site_user(site), commands), neighbours)


def _may(client: redis.Redis, user: str, commands: Sequence[Command]) -> dict[Command, bool]:
    """By command, whether Redis would let the user."""
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command("ACL", "DRYRUN", user, *command)
        return {command: answer == b"OK" for command, answer in zip(commands, pipe.execute(), strict=True)}


def of_own_queue(client: redis.Redis, site: str) -> Finding:
    """Whether a site can do its work: it may look at its queue, whose name is its own."""
    try:
        found = f"{client.llen(site_queue(site))} messages wait in its queue"
    except NoPermissionError:
        found = f"Redis does not let {site} at its own queue"
        advice = "ask the centre for new credentials"
        return Finding(mark="warning", check="own work", found=found, advice=advice)
    return Finding(mark="ok", check="own work", found=found)


def of_presence(client: redis.Redis, sites: list[str]) -> Iterator[Finding]:
    """Who lives, as the operator sees it."""
    yield findings.of_coordinator(client.get(keys.COORDINATOR))
    seconds, _ = client.time()
    for site in sites:
        try:
            stored = client.getrange(keys.site(site), 0, messages.MAX_BYTES)
            said = messages.decode(Announcement, stored)
        except MalformedMessage:
            yield findings.of_site(site, None, "", SOFTWARE, PRESENCE)
            continue
        software = messages.one_line(said.software)
        yield findings.of_site(site, seconds - said.seen, software, SOFTWARE, PRESENCE)
