"""What one hospital gets: an archive with its access, its settings, its compose file, and a page to read."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator import deployment

SITE_TOML = """
# [data] will say where this hospital's examples are; until then its share of a trial's data set is used.
"""

README = """\
fedelta at {site}
=================

This folder lets one worker of yours take part in the studies of a coordinating centre. The worker opens one
outgoing connection, to the centre's Redis, encrypted and with a certificate on both sides; it listens on no
port. It trains on your examples and sends changes of a model's parameters, scores, and how many examples it
used. What it may do there is confined to its own work; nobody can send it commands or code.

`password` and `client.key` are secrets: whoever has them can take part in your name. Keep this folder to
yourself, and ask the centre to remove your site if it was ever elsewhere.

1. Have the image: `docker load -i fedelta.tar`, or build it from fedelta's sources as the centre tells you.
2. In this folder, once:  echo "FEDELTA_USER=$(id -u):$(id -g)" >> .env
3. Check:                 docker compose run --rm worker doctor --site /site/site.toml
4. Start:                 docker compose up -d
   Look:                  docker compose logs -f
   Stop:                  docker compose down
"""


def write(path: Path, site: str, access_files: Mapping[str, str]) -> None:
    """Write the archive: a folder named as the site; its owner's alone, as is what is unpacked from it."""
    files = {**access_files, **deployment.site_files(site), "README.txt": README.format(site=site)}
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    with tarfile.open(unfinished, "w:gz") as archive:
        for name in (site, f"{site}/data"):  # the latter for examples, if they are nowhere else
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(folder)
        for name, text in sorted(files.items()):
            data = text.encode()
            member = tarfile.TarInfo(f"{site}/{name}")
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    unfinished.replace(path)
