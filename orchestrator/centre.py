"""The folder of a coordinating centre: its keys, its Redis's settings and users, its hospitals.

    DIR/compose.yaml, .env    what `docker compose up` starts there
    DIR/authority/            the certificate authority, and the admin's access to Redis: for the person alone
    DIR/redis/                redis.conf, users.acl, the server's certificate
    DIR/coordinator/, operator/, flower/    each one's access to Redis; Flower's login
    DIR/data/, runs/          Redis's append-only file; results
    DIR/sites/                each hospital's bundle, until it is handed over

Every file with a secret is its owner's alone (0600). `users.acl` is the list of hospitals: whoever is in it
may work, whoever is taken out may not, at once.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from orchestrator import access, bundle, certificates, deployment
from orchestrator.certificates import Pair
from tasks import connection
from tasks.app import connect_by
from workers.errors import NotFound, SettingsError, Unavailable

ROLES = (access.COORDINATOR, access.OPERATOR, access.FLOWER)
REDIS_PORT = 6379
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+")


@dataclass(frozen=True, kw_only=True)
class Centre:
    """A centre's folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate authority and the admin's access."""
        return self.folder / "authority"

    @property
    def acl_file(self) -> Path:
        """Redis's users."""
        return self.folder / "redis" / "users.acl"

    @property
    def mark(self) -> Path:
        """The file that is written last: where it is, a centre is whole."""
        return self.authority / "centre.toml"

    def bundle(self, site: str) -> Path:
        """A hospital's archive, to hand over."""
        return self.folder / "sites" / f"{site}.tar.gz"


def create(folder: Path, *, host: str, port: int = REDIS_PORT, uses_docker: bool = True) -> Centre:
    """Make what a centre needs; hospitals reach its Redis at this host and port.

    Without docker, Redis's settings name the folder's own paths, and the centre's processes find it at
    localhost.

    Raises:
        SettingsError: there is a centre in the folder already, or host or port are none; nothing is changed.
    """
    centre = Centre(folder=folder.absolute())
    if centre.mark.exists():
        raise SettingsError(f"{folder}: there is a centre already; nothing was changed")
    if not (HOST.fullmatch(host) and len(host) <= 253):
        raise SettingsError(f"--host: expected a host name or an IP address, and nothing else, got {host!r}")
    if not 0 < port < 65536:
        raise SettingsError(f"--port: expected 1 to 65535, got {port}")
    for path in [*private_folders(centre), centre.folder / "runs"]:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755 if path.name == "runs" else 0o700)
        if uses_docker and os.getuid() == 0:
            os.chown(path, *deployment.owner())
    # A Docker volume with nothing in it would take the owner of what the next container mounts it on.
    write_private(centre.folder / "data" / "README", "What Redis remembers: back it up with the rest.\n")

    authority = certificates.authority(f"centre at {host}")
    _write_pair(centre.authority, "ca", authority)
    redis_folder = centre.folder / "redis"
    _write_pair(redis_folder, "redis", _server_pair(authority, host))
    write_private(redis_folder / "ca.crt", authority.certificate.decode())

    inside = f"redis:{REDIS_PORT}" if uses_docker else f"localhost:{port}"
    hashes = {access.ADMIN: _give_access(centre.authority, authority, access.ADMIN, f"localhost:{port}")}
    for role in ROLES:
        hashes[role] = _give_access(centre.folder / role, authority, role, inside)
    write_private(centre.folder / access.FLOWER / "login", f"fedelta:{secrets.token_urlsafe(18)}\n")
    write_private(centre.acl_file, access.acl_file(hashes))
    if uses_docker:
        conf = deployment.redis_conf("/etc/fedelta", "/data", REDIS_PORT, address="*")
        deployment.write_centre(centre.folder, port)
    else:
        conf = deployment.redis_conf(
            str(redis_folder), str(centre.folder / "data"), port, address="127.0.0.1"
        )
    write_private(redis_folder / "redis.conf", conf)
    write_private(centre.mark, f'host = "{host}"\nport = {port}\n')
    return centre


def open_centre(folder: Path) -> Centre:
    """The centre in this folder.

    Raises:
        NotFound: there is none.
    """
    centre = Centre(folder=folder.absolute())
    if not centre.mark.exists():
        raise NotFound(f"{folder}: there is no centre; fedelta init-centre {folder} makes one")
    return centre


def renew(centre: Centre) -> None:
    """Give the centre's own processes new certificates, of the same authority; read at their start."""
    authority = _read_pair(centre.authority, "ca")
    host = str(connection.read_toml(centre.mark)["host"])
    _write_pair(centre.folder / "redis", "redis", _server_pair(authority, host))
    _write_pair(centre.authority, "client", certificates.client(authority, access.ADMIN))
    for role in ROLES:
        _write_pair(centre.folder / role, "client", certificates.client(authority, role))


def add_site(centre: Centre, site: str, redis_url: str | None = None, *, renews: bool = False) -> bool:
    """Let a hospital in, at once, and write its bundle; returns whether a running Redis was told.

    `renews` gives one that is in a new certificate and password; the old ones end at once.

    Raises:
        SettingsError: its name cannot be one, it is in already, or the URL is wrong; nothing is changed.
        NotFound: it is to be renewed, and is not in; nothing is changed.
    """
    access.check_site(site)
    user, to_redis = access.site_user(site), admin_connection(centre, redis_url)
    with _alone(centre):
        hashes = read_users(centre)
        if user in hashes and not renews:
            raise SettingsError(
                f"site {site} is in already; fedelta remove-site {site} revokes it, and --renew gives it new "
                "credentials"
            )
        if renews and user not in hashes:
            raise _not_found(centre, site)
        password = secrets.token_urlsafe(32)
        authority = _read_pair(centre.authority, "ca")
        address = _address(centre)
        files = _access_files(authority, user, password, address, header=bundle.header(site))
        files["site.toml"] = files.pop("connection.toml") + bundle.SITE_TOML
        bundle.write(centre.bundle(site), site, files, address, is_renewal=renews)
        give_to_owner(centre.bundle(site))
        hashes[user] = access.hashed(password)
        write_private(centre.acl_file, access.acl_file(hashes))
        return _tell_redis(to_redis, lambda admin: _replace_user(admin, user, hashes[user]))


def remove_site(centre: Centre, site: str, redis_url: str | None = None) -> bool:
    """Let a hospital in no more, and end its connections; returns whether a running Redis was told.

    Raises:
        NotFound: it is not in, here and there; nothing is changed.
        SettingsError: the URL is wrong; nothing is changed.
    """
    user, to_redis = access.site_user(site), admin_connection(centre, redis_url)
    was_there: list[object] = []
    with _alone(centre):
        hashes = read_users(centre)
        was_there.append(hashes.pop(user, None))
        write_private(centre.acl_file, access.acl_file(hashes))
        centre.bundle(site).unlink(missing_ok=True)
        is_told = _tell_redis(to_redis, lambda admin: was_there.append(admin.acl_deluser(user)))
    if is_told and not any(was_there):
        raise _not_found(centre, site)
    return is_told


def sites(centre: Centre) -> list[str]:
    """The hospitals that may work."""
    return sorted(user.removeprefix("site.") for user in read_users(centre) if user.startswith("site."))


def private_folders(centre: Centre) -> list[Path]:
    """Where everything is its owner's alone."""
    return [centre.folder / name for name in ("authority", "redis", *ROLES, "data", "sites")]


def own_certificates(centre: Centre) -> dict[str, Path]:
    """By whose it is, every certificate of the centre's own."""
    clients = {role: centre.folder / role / "client.crt" for role in ROLES}
    return {
        "the authority": centre.authority / "ca.crt",
        "the server": centre.folder / "redis" / "redis.crt",
        access.ADMIN: centre.authority / "client.crt",
        **clients,
    }


def read_users(centre: Centre) -> dict[str, str]:
    """By user of Redis, the hash of the password."""
    found = re.findall(r"^user (\S+) .*?#([0-9a-f]{64})", connection.read_text(centre.acl_file), re.MULTILINE)
    return dict(found)


def admin_connection(centre: Centre, redis_url: str | None = None) -> connection.Connection:
    """The admin's access to the centre's Redis; `redis_url` says where it is, seen from here.

    Raises:
        SettingsError: the centre's files cannot be read, or the URL is wrong.
    """
    return connection.read(centre.authority / "connection.toml", url=redis_url)


@contextmanager
def _alone(centre: Centre) -> Iterator[None]:
    """One at a time changes the users, in the file and in Redis; what is to be written is read in here."""
    path = centre.folder / "redis" / ".lock"
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as lock:
        give_to_owner(path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tell_redis(found: connection.Connection, tell: Callable[[redis.Redis], object]) -> bool:
    """Do the same to a Redis that runs; it reads the file only when it starts."""
    try:
        with connect_by(found) as admin:
            tell(admin)
    except Unavailable:
        return False
    return True


def _replace_user(admin: redis.Redis, user: str, password_hash: str) -> None:
    admin.acl_deluser(user)  # which ends its connections
    access.put_user(admin, user, password_hash)


def _not_found(centre: Centre, site: str) -> NotFound:
    known = ", ".join(sites(centre)) or "none"
    return NotFound(f"no site {site!r} in {centre.folder}; there: {known}")


def _server_pair(authority: Pair, host: str) -> Pair:
    names = dict.fromkeys([host, "redis", "localhost", "127.0.0.1"])
    return certificates.server(authority, list(names))


def _address(centre: Centre) -> str:
    """Where hospitals find Redis."""
    written = connection.read_toml(centre.mark)
    host = str(written["host"])
    return f"[{host}]:{written['port']}" if ":" in host else f"{host}:{written['port']}"


def _give_access(folder: Path, authority: Pair, user: str, address: str) -> str:
    """Write a user's access to Redis into its folder; returns the hash of its password."""
    password = secrets.token_urlsafe(32)
    for name, text in _access_files(authority, user, password, address).items():
        write_private(folder / name, text)
    return access.hashed(password)


def _access_files(
    authority: Pair, user: str, password: str, address: str, header: str = ""
) -> dict[str, str]:
    """By name, the files of a user's access to Redis."""
    own = certificates.client(authority, user)
    return {
        "connection.toml": f'''{header}[connection] # to the centre's Redis; the files are beside this one
url = "rediss://{address}/0"
username = "{user}"
password_file = "password"
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"
''',
        "password": password + "\n",
        "ca.crt": authority.certificate.decode(),
        "client.crt": own.certificate.decode(),
        "client.key": own.key.decode(),
    }


def _write_pair(folder: Path, name: str, pair: Pair) -> None:
    write_private(folder / f"{name}.crt", pair.certificate.decode())
    write_private(folder / f"{name}.key", pair.key.decode())


def _read_pair(folder: Path, name: str) -> Pair:
    certificate, key = (connection.read_text(folder / f"{name}.{kind}").encode() for kind in ("crt", "key"))
    return Pair(certificate=certificate, key=key)


def write_private(path: Path, text: str) -> None:
    """Write a file that only who owns the folder can read; a reader never sees half of it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    give_to_owner(unfinished)
    unfinished.replace(path)


def give_to_owner(path: Path) -> None:
    """What root writes belongs to who owns the folder: the centre's containers, which are not root."""
    if os.getuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)
