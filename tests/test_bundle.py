import io
import stat
import tarfile

import pytest

from orchestrator import access, bundle, centre
from tasks import connection, site_file

NAMES = {"site.toml", "password", "ca.crt", "client.crt", "client.key", "compose.yaml", ".env", "README.txt"}


@pytest.fixture
def east(own_centre):
    own_centre.start()  # a Redis that is away would be waited for
    centre.add_site(own_centre.centre, "east")
    return own_centre


FOLDERS = ("east", "east/data", "east/personal")


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def members(running, site="east"):
    with tarfile.open(running.centre.bundle(site)) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_a_bundle_is_one_folder_with_what_a_hospital_needs_and_nothing_else(east):
    found = members(east)
    assert found.keys() == {*FOLDERS, *(f"east/{name}" for name in NAMES)}
    assert all(found.pop(folder).isdir() for folder in FOLDERS)
    assert all(member.isreg() for member in found.values())


def test_a_bundle_leads_nowhere_but_into_its_own_folder(east):
    for name, member in members(east).items():
        assert name == "east" or (name.startswith("east/") and name.count("/") == 1)
        assert ".." not in name.split("/")
        assert (member.linkname, member.islnk(), member.issym(), member.isdev()) == ("", False, False, False)


def test_a_bundle_and_what_is_unpacked_from_it_are_their_owners_alone(east):
    assert stat.S_IMODE(east.centre.bundle("east").stat().st_mode) == 0o600
    assert {member.mode for name, member in members(east).items() if name not in FOLDERS} == {0o600}
    assert {members(east)[folder].mode for folder in FOLDERS} == {0o700}
    folder = east.unpacked("east")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(folder)} == {0o600}


def test_the_sites_file_says_who_it_is_and_where_the_centre_is(east):
    folder = east.unpacked("east")
    assert connection.read_toml(folder / "site.toml")["name"] == "east"
    found = connection.read(folder / "site.toml")
    assert (found.username, found.url) == ("site.east", f"rediss://localhost:{east.port}/0")
    assert found.password_file == folder / "password"


def test_the_sites_file_has_no_data_sets_yet_but_says_how_to_name_them(east):
    path = east.unpacked("east") / "site.toml"
    found = site_file.read(path)
    assert (found.name, found.min_count, found.models, found.sources) == ("east", 10, (), {})
    text = path.read_text()
    commented = text[text.index("# [[datasets]]") :]
    (path.parent / "data.csv").touch()
    lines = [line.removeprefix("# ") for line in commented.splitlines()]
    path.write_text(text + "\n".join(lines).replace("/data/stroke.csv", "data.csv"))
    assert site_file.read(path).sources["stroke"].here("sex") == "GESCHLECHT"


def test_the_password_is_the_one_whose_hash_redis_has_and_is_nowhere_else(east):
    folder = east.unpacked("east")
    password = (folder / "password").read_text().strip()
    assert centre.read_users(east.centre)["site.east"] == access.hashed(password)
    assert [path.name for path in files(folder) if password in path.read_text()] == ["password"]


def test_nothing_that_is_the_centres_own_is_in_a_bundle(east):
    centre.add_site(east.centre, "west")
    said = "".join(path.read_text() for path in files(east.unpacked("east")))
    own = [path for folder in centre.private_folders(east.centre) for path in folder.glob("*")]
    secrets = [path.read_text().strip() for path in own if path.suffix == ".key" or path.name == "password"]
    secrets += [(east.unpacked("west") / name).read_text().strip() for name in ("password", "client.key")]
    assert len(secrets) == 12
    assert [secret for secret in secrets if secret in said] == []


def test_the_readme_and_the_compose_file_are_of_that_site(east):
    folder = east.unpacked("east")
    assert (folder / "README.txt").read_text().startswith("fedelta at east\n")
    assert "FEDELTA_SITE=east\n" in (folder / ".env").read_text()
    assert "--site /site/site.toml" in (folder / "compose.yaml").read_text()


def test_what_a_killed_process_left_of_a_bundle_is_replaced_and_private(tmp_path):
    left = tmp_path / ".east.tar.gz.unfinished"
    left.write_bytes(b"half")
    left.chmod(0o644)
    bundle.write(tmp_path / "east.tar.gz", "east", {"password": "x"}, "here:1")
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        assert archive.extractfile("east/password").read() == b"x"
