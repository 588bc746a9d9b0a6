"""What the commands of `cli` do that are for whoever looks after a centre or a hospital."""

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator import access, centre, children, doctor
from orchestrator.findings import Finding, Mark
from tasks import connection, environment, site_file
from tasks.app import connect, use_connection
from workers.errors import ExperimentError, SettingsError, Unavailable

STYLES: dict[Mark, str] = {"ok": "green", "warning": "yellow", "unsafe": "bold red", "unknown": "cyan"}

console = Console(markup=False, highlight=False, soft_wrap=True)


def worker(sites: Sequence[str]) -> None:
    """Become the worker of the site of this file, or of these sites."""
    files = [Path(site) for site in sites if site.endswith(".toml")]
    if not files:
        for site in sites:
            access.check_site(site)
    elif len(sites) > 1:
        raise ExperimentError(f"--site: expected one file, or names, got {', '.join(sites)}")
    else:
        found = site_file.read(files[0])
        sites = [site_name(files[0])]
        if found.connection is not None or not environment.broker_url():  # a trial has a Redis without TLS
            use_connection(files[0])
    environment.set_site_file(files[0] if files else None)
    _become(children.worker(sites))


def site_name(file: Path) -> str:
    """The name of the site whose file this is.

    Raises:
        SettingsError: the file cannot be read, or names none.
    """
    name = connection.read_toml(file).get("name")
    if not isinstance(name, str):
        raise SettingsError(f"{file}: name: expected the site's name")
    try:
        access.check_site(name)
    except SettingsError as error:
        raise SettingsError(f"{file}: name: {error}") from error
    return name


def coordinator(*, has_own_beat: bool) -> None:
    """Become the coordinator."""
    environment.set_own_beat(has_own_beat)
    _become(children.coordinator())


def beat() -> None:
    """Become the clock of coordinators that have none."""
    _become(children.beat())


def flower(address: str, port: int) -> None:
    """Become Flower."""
    _become(children.flower(address, port))


def init_centre(folder: Path, host: str, port: int, *, uses_docker: bool, keeps: bool) -> None:
    """Make a centre."""
    if keeps and centre.Centre(folder=folder).mark.exists():
        console.print(f"{folder} is a centre already")
        return
    try:
        centre.create(folder, host=host, port=port, uses_docker=uses_docker)
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    alone = " (nobody but this machine reaches that: --host)" if host == "localhost" else ""
    console.print(
        f"""{folder} is a centre; all that is secret in it is yours alone, so keep it so, and back it up
  hospitals reach it  at {host}:{port}{alone}
  let a hospital in   fedelta add-site NAME --centre {folder}
  start it            cd {folder} && docker compose up -d
  Flower              http://localhost:5555, with the login in {folder}/flower/login
  is it safe?         fedelta doctor --centre {folder}"""
    )


def renew(folder: Path) -> None:
    """Give the centre's own processes new certificates."""
    centre.renew(centre.open_centre(folder))
    console.print("the centre's own certificates are new; start its containers anew: docker compose restart")


def add_site(folder: Path, name: str, redis_url: str | None, *, renews: bool) -> None:
    """Let a hospital in, or give it new credentials."""
    opened = centre.open_centre(folder)
    is_told = centre.add_site(opened, name, redis_url or environment.admin_redis(), renews=renews)
    console.print(f"{opened.bundle(name)} is for {name} alone: hand it over safely, then delete it")
    if not is_told:
        console.print("Redis did not answer: what this changes holds when it is started next")


def remove_site(folder: Path, name: str, redis_url: str | None) -> None:
    """Let a hospital in no more.

    Raises:
        Unavailable: Redis was not told; it keeps the site until it is started anew.
    """
    opened = centre.open_centre(folder)
    if not centre.remove_site(opened, name, redis_url or environment.admin_redis()):
        raise Unavailable(
            f"{name} is out of {opened.acl_file}, but Redis did not answer: if it runs, it lets the site "
            "in still; start it anew, or say with --redis where it is and remove the site again"
        )
    console.print(f"{name} is let in no more, and its connections are ended")


def examine(folder: Path | None, site: Path | None, redis_url: str | None, *, as_json: bool) -> bool:
    """Say what is unsafe about a centre, a hospital's access, or what the environment names.

    Returns whether nothing is.

    Raises:
        SettingsError: it is not clear which; or a file is wrong.
        Unavailable: Redis does not answer; what was found without it is shown before.
    """
    if (folder and site) or (redis_url and not folder):
        raise SettingsError("expected --centre, or --centre and --redis, or --site, or none of them")
    if folder:
        found = doctor.examine_centre(folder, redis_url or environment.admin_redis())
    elif site:
        found = doctor.examine_site(site, site_name(site))
    else:
        found = doctor.examine_environment()
    counts = Counter(finding.mark for finding in (_show_json if as_json else _show)(found))
    return not counts["unsafe"]


def _show(found: Iterable[Finding]) -> list[Finding]:
    """Show each finding when it is made, and their number at the end."""
    shown = []
    for finding in found:
        console.print(str(finding), style=STYLES[finding.mark])
        shown.append(finding)
    counts = Counter(finding.mark for finding in shown)
    console.print(", ".join(f"{counts[mark]} {mark}" for mark in STYLES))
    return shown


def _show_json(found: Iterable[Finding]) -> list[Finding]:
    """Show all findings at the end, those too that were made before an error."""
    shown: list[Finding] = []
    try:
        for finding in found:
            shown.append(finding)
    finally:
        print(json.dumps([dataclasses.asdict(finding) for finding in shown], indent=2))
    return shown


def _become(command: Sequence[str]) -> None:
    """Replace this process; signals then go where they are meant to."""
    connect()  # says clearly that Redis is not there, before Celery tries for ever
    sys.stdout.flush()
    os.execv(command[0], list(command))
