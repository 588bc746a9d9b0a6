"""What `doctor` says of the facts that it has gathered: one finding each, with what is to be done about it.

Pure functions; `doctor` asks, `doors` tries, `rights` looks at users and their rules.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Mark: TypeAlias = Literal["ok", "warning", "unsafe", "unknown"]

DAYS_AHEAD = 30
CLOCK_SECONDS = 5
FULL = 0.8  # of maxmemory
OLDEST_REDIS = 7
# Redis's settings that say who may use commands that reach beyond data, and what their absence means.
DANGEROUS = ("enable-debug-command", "enable-module-command", "enable-protected-configs")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    mark: Mark
    check: str  # what was looked at
    found: str
    advice: str = ""  # what to do; nothing where all is well

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.mark:<8} {self.check}: " + "; ".join(filter(None, (self.found, self.advice)))


def unknown(check: str, found: str, advice: str = "") -> Finding:
    """What could not be found out."""
    return Finding(mark="unknown", check=check, found=found, advice=advice)


def of_fact(check: str, found: str, mistake: str, advice: str, mark: Mark = "unsafe") -> Finding:
    """What was found, if there is no mistake in it; otherwise the mistake, and what to do."""
    if not mistake:
        return Finding(mark="ok", check=check, found=found)
    return Finding(mark=mark, check=check, found=mistake, advice=advice)


def of_info(info: Mapping[str, object]) -> Iterator[Finding]:
    """What Redis's INFO says."""
    yield of_version(str(info.get("redis_version", "")))
    yield of_persistence(info)
    policy = info.get("maxmemory_policy", "unknown to it")
    yield of_fact(
        "eviction",
        "noeviction: Redis forgets nothing by itself",
        "" if policy == "noeviction" else f"maxmemory-policy is {policy}: when full, Redis deletes data",
        "set maxmemory-policy noeviction",
    )
    yield of_memory(int(str(info.get("used_memory", 0))), int(str(info.get("maxmemory", 0))))


def of_version(version: str) -> Finding:
    """How old Redis is."""
    major = re.match(r"\d+", version)
    if major is None:
        return unknown("Redis", "it does not say its version")
    is_old = int(major[0]) < OLDEST_REDIS
    mistake = f"version {version}, whose access rules cannot confine a hospital" if is_old else ""
    return of_fact("Redis", f"version {version}", mistake, f"use Redis {OLDEST_REDIS} or newer")


def of_persistence(info: Mapping[str, object]) -> Finding:
    """Whether what is written outlives Redis."""
    mistake, advice = "", ""
    if not info.get("aof_enabled"):
        mistake, advice = "appendonly is off: a restart of Redis loses every experiment", "set appendonly yes"
    elif info.get("aof_last_write_status") != "ok":
        mistake = "the last write to the append-only file failed"
        advice = "look at Redis's log, and whether its disk is full"
    return of_fact("persistence", "append-only file, and its last write went well", mistake, advice)


def of_memory(used: int, limit: int) -> Finding:
    """How full Redis is."""
    if not limit:
        found = "no maxmemory is set: Redis can take all memory there is"
        return Finding(mark="warning", check="memory", found=found, advice="set maxmemory")
    found = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB in use"
    mistake = f"{found}; when it is full, nothing can be written" if used > FULL * limit else ""
    return of_fact("memory", found, mistake, "raise maxmemory, or remove old experiments", "warning")


def of_config(config: Mapping[str, str]) -> Iterator[Finding]:
    """What Redis's CONFIG GET says."""
    protected = config.get("protected-mode")
    yield of_fact(
        "protected mode",
        "on",
        "" if protected == "yes" else "off: with an open default user, every address is served",
        "set protected-mode yes",
    )
    for name in DANGEROUS:
        value = config.get(name)
        if value is None:
            yield unknown(name, "this Redis has no such setting, so the commands are always on")
        else:
            mistake = "" if value == "no" else f"is {value}: {'local ' * (value == 'local')}users may use it"
            yield of_fact(name, "no", mistake, f"set {name} no", "warning" if value == "local" else "unsafe")


def of_clock(server_seconds: float, our_seconds: float) -> Finding:
    """How far the clocks are apart."""
    apart = abs(server_seconds - our_seconds)
    found = f"{apart:.1f} s between Redis's and ours"
    mistake = found if apart > CLOCK_SECONDS else ""
    return of_fact("clock", found, mistake, "let both be set by NTP", "warning")


def of_certificate(whose: str, days: int, advice: str) -> Finding:
    """How long a certificate is still good."""
    check = f"certificate of {whose}"
    if days < 0:
        found = f"ran out {-days} days ago"
        return Finding(mark="unsafe", check=check, found=found, advice=advice)
    found = f"good for {days} days"
    return of_fact(check, found, found if days < DAYS_AHEAD else "", advice, "warning")


def of_modes(folder: Path, modes: Mapping[Path, int]) -> Iterator[Finding]:
    """Who may read the secrets: by path, the permissions of a file or folder that is its owner's alone."""
    wrong = {path: mode for path, mode in modes.items() if mode & 0o077}
    if not wrong:
        yield Finding(mark="ok", check="files", found=f"{len(modes)} in {folder}/ are their owner's alone")
    for path, mode in sorted(wrong.items()):
        found = f"{path} is {mode & 0o777:04o}: others of this machine can reach it"
        yield Finding(mark="unsafe", check="files", found=found, advice=f"chmod go= {path}")


def of_bundles(left: Sequence[Path]) -> Iterator[Finding]:
    """Hospitals' secrets that are still at the centre."""
    if not left:
        yield Finding(mark="ok", check="bundles", found="none is left here")
    for path in left:
        found = f"{path} holds a hospital's secrets"
        yield Finding(mark="warning", check="bundles", found=found, advice="hand it over, then delete it")


def of_coordinator(name: bytes | None) -> Finding:
    """Whether a coordinator lives."""
    found = f"{name.decode(errors='replace')} lives" if name else ""
    mistake = "" if name else "none lives, so no update is folded in"
    return of_fact("coordinator", found, mistake, "start it", "warning")


def of_site(
    site: str, seen_seconds_ago: float | None, software: str, ours: str, patience_seconds: float
) -> Finding:
    """When a site's worker was last there, and with which software."""
    check, advice = f"site {site}", "ask the hospital whether its worker runs"
    if seen_seconds_ago is None:
        return Finding(mark="warning", check=check, found="was never seen", advice=advice)
    ago = f"last seen {_ago(seen_seconds_ago)} ago, with {software}"
    if seen_seconds_ago > patience_seconds:
        return Finding(mark="warning", check=check, found=ago, advice=advice)
    is_other = software != ours
    return of_fact(check, ago, f"{ago}; here is {ours}" if is_other else "", "use the same", "warning")


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
