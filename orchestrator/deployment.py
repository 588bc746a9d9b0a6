"""What a centre or a hospital starts its processes with: the files of `docker/`, and Redis's settings."""

import os
import re
import shutil
import sysconfig
from importlib.metadata import version
from pathlib import Path

from workers.errors import NotFound

IMAGE_USER = 10001  # of docker/Dockerfile
MONITORING = ("prometheus.yml", "grafana-datasource.yml", "grafana-dashboards.yml", "fedelta-dashboard.json")


def write_centre(folder: Path, port: int) -> None:
    """Write what `docker compose up` needs in a centre's folder; an .env that is there is kept.

    Its image is there or loaded, and not built.
    """
    compose = (_docker() / "compose.yaml").read_text("utf-8")
    (folder / "compose.yaml").write_text(
        re.sub(r"^    build:.*\n(      .*\n)+", "", compose, flags=re.MULTILINE)
    )
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "monitoring").mkdir(exist_ok=True)
    for name in MONITORING:
        shutil.copyfile(_docker() / "monitoring" / name, folder / "monitoring" / name)
    variables = f"""\
FEDELTA_IMAGE=fedelta:{version("fedelta")}
FEDELTA_CENTRE=./
FEDELTA_USER={":".join(map(str, owner()))}
FEDELTA_EXPERIMENTS=./experiments
# Hospitals connect here. 127.0.0.1 keeps Redis to this machine; 0.0.0.0 opens it to your network.
FEDELTA_LISTEN=127.0.0.1
FEDELTA_PORT={port}
FEDELTA_FLOWER_PORT=5555
"""
    if not (folder / ".env").exists():
        (folder / ".env").write_text(variables)


def owner() -> tuple[int, int]:
    """User and group of a centre's files and of its containers: whoever makes it, but not root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (IMAGE_USER, IMAGE_USER)


def redis_conf(folder: str, data: str, port: int, address: str) -> str:
    """Redis's settings: what it listens at, where its certificate and users are, and where its data."""
    return f"""# The centre's Redis: TLS with a certificate on both sides, named users, nothing forgotten.
bind {address}
port 0
tls-port {port}
tls-cert-file {folder}/redis.crt
tls-key-file {folder}/redis.key
tls-ca-cert-file {folder}/ca.crt
tls-auth-clients yes
tls-protocols "TLSv1.2 TLSv1.3"
protected-mode yes
aclfile {folder}/users.acl
acllog-max-len 256

# After a power failure, before Redis starts again (docker compose does so at every start):
#   redis-check-aof --fix {data}/appendonlydir/appendonly.aof.manifest
# Half a transaction at the end of the file is taken away; Redis 7.0 would carry it out two starts later.
dir {data}
appendonly yes
appendfsync everysec
save ""
# By default the file would be written anew, and compressed, with nearly every update of a large model.
auto-aof-rewrite-min-size 1gb
rdbcompression no

# A model takes 4 bytes for each parameter, and is there several times: versions that hospitals train from,
# what the strategy remembers, each hospital's change.
maxmemory 2gb
maxmemory-policy noeviction
# The most that anybody can send at once, and so what a hospital can have the coordinator read at once. Models
# come in pieces of a MiB.
proto-max-bulk-len 32mb
maxmemory-clients 20%
client-output-buffer-limit normal 512mb 300mb 60
client-output-buffer-limit pubsub 32mb 8mb 60
tcp-keepalive 60
"""


def site_files(site: str, address: str) -> dict[str, str]:
    """What a hospital starts its worker with, by name, and a page to read; `address` is the centre's."""
    readme = (_docker() / "site.README.txt").read_text("utf-8")
    return {
        "README.txt": readme.format(site=site, address=address),
        "compose.yaml": (_docker() / "site.compose.yaml").read_text("utf-8"),
        ".env": f"COMPOSE_PROJECT_NAME=fedelta-{site}\nFEDELTA_SITE={site}\n"
        f"FEDELTA_IMAGE=fedelta:{version('fedelta')}\n# FEDELTA_DATA=/where/your/examples/are\n",
    }


def _docker() -> Path:
    """The folder, in a checkout or where it was installed."""
    candidates = (
        Path(__file__).parent.parent / "docker",
        Path(sysconfig.get_path("data")) / "share" / "fedelta" / "docker",
    )
    for folder in candidates:
        if (folder / "compose.yaml").is_file():
            return folder
    raise NotFound(f"fedelta's compose files are not where they were installed: {candidates[1]}")
