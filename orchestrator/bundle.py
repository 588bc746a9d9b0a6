"""What one hospital gets: an archive with its access, its settings, its compose file, and a page to read."""

import io
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator import deployment

SITE_TOML = """
# Which examples this hospital has; `fedelta check site.toml` says what is found.
# Without any, its share of a trial's public data set is used. More: docs/data.md in fedelta's sources.
#
# [[datasets]]
# name = "stroke"                   # as the studies call it
# path = "/data/stroke.csv"         # or from this file's folder on
# format = "csv"                    # or parquet, npz, images, dicom
# columns = { sex = "GESCHLECHT" }  # the study's name of a column = yours
"""

HEADER = """name = "{site}"
min_count = 10  # of fewer examples than this, or values of a column, no means are told
models = []     # functions of your own or of others', "package.module:name", that may run here as models

"""

SECRETS = ("password", "ca.crt", "client.crt", "client.key")


def header(site: str) -> str:
    """How its site.toml begins."""
    return HEADER.format(site=site)


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
        # For examples, if they are nowhere else, and for the models that stay with the hospital.
        for name in (site, f"{site}/data", f"{site}/personal"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
            archive.addfile(folder)
        for name, text in sorted(files.items()):
            data = text.encode()
            member = tarfile.TarInfo(f"{site}/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    unfinished.replace(path)
