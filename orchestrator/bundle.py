"""What one hospital gets: an archive with its access, its settings, its compose file, and a page to read."""

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator import deployment

SITE_TOML = """
# [data] will say where this hospital's examples are; until then its share of a trial's data set is used.
"""

SECRETS = ("password", "ca.crt", "client.crt", "client.key")


def write(
    path: Path, site: str, access_files: Mapping[str, str], address: str, *, is_renewal: bool = False
) -> None:
    """Write the archive: a folder named as the site; its owner's alone, as is what is unpacked from it.

    `address` is the centre's. A renewal has new secrets alone, so that nothing of the hospital's is lost.
    """
    if is_renewal:
        files = {name: access_files[name] for name in SECRETS}
    else:
        files = {**access_files, **deployment.site_files(site, address)}
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    with tarfile.open(unfinished, "w:gz") as archive:
        for name in (site, f"{site}/data"):  # the latter for examples, if they are nowhere else
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
            archive.addfile(folder)
        for name, text in sorted(files.items()):
            data = text.encode()
            member = tarfile.TarInfo(f"{site}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    unfinished.replace(path)
