import subprocess

import pytest

from orchestrator import administration, centre
from tests.centres import PROGRAM, a_name, run
from tests.machine import free_port
from workers.errors import ExperimentError, SettingsError


def test_a_centre_is_made_once_and_with_keep_that_is_fine(tmp_path):
    folder = tmp_path / "centre"
    done = run("init-centre", folder, "--host", "localhost", "--no-docker")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"fedelta add-site NAME --centre {folder}" in done.stdout
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = run("init-centre", folder)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"fedelta: {folder}: there is a centre already; nothing was changed\n"
    kept = run("init-centre", folder, "--keep")
    assert (kept.returncode, kept.stdout, kept.stderr) == (0, f"{folder} is a centre already\n", "")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_making_that_was_killed_can_be_repeated(tmp_path):
    folder = tmp_path / "centre"
    process = subprocess.Popen([PROGRAM, "init-centre", folder, "--no-docker"], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "authority" / "ca.key").exists():
        pass
    process.kill()
    process.wait()
    done = run("init-centre", folder, "--no-docker", "--keep")
    assert (done.returncode, done.stderr) == (0, "")
    assert centre.open_centre(folder)


def test_a_hospital_is_let_in_and_out_with_the_exit_codes_that_say_what_happened(tls_centre):
    name = a_name()
    there = ("--centre", tls_centre.folder)
    added = run("add-site", name, *there)
    bundle = tls_centre.centre.bundle(name)
    assert (added.returncode, added.stderr) == (0, "")
    assert added.stdout == f"{bundle} is for {name} alone: hand it over safely, then delete it\n"
    tls_centre.unpacked(name)
    before = tls_centre.centre.acl_file.read_bytes()
    twice = run("add-site", name, *there)
    assert (twice.returncode, twice.stdout) == (2, "")
    assert twice.stderr.startswith(f"fedelta: site {name} is in already; fedelta remove-site {name} revokes")
    assert tls_centre.centre.acl_file.read_bytes() == before
    away = run("remove-site", name, *there, FEDELTA_ADMIN_REDIS=f"rediss://localhost:{free_port()}/0")
    assert (away.returncode, away.stdout) == (3, "")
    assert "but Redis did not answer" in away.stderr and "remove the site again" in away.stderr
    assert tls_centre.connect(name).ping()
    removed = run("remove-site", name, *there)
    assert (removed.returncode, removed.stderr) == (0, "")
    assert removed.stdout == f"{name} is let in no more, and its connections are ended\n"
    gone = run("remove-site", name, *there)
    assert (gone.returncode, gone.stdout) == (4, "")
    assert gone.stderr.startswith(f"fedelta: no site '{name}' in {tls_centre.folder}; there: ")


def test_where_no_centre_is_nobody_is_let_in(tmp_path):
    done = run("add-site", "east", "--centre", tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (4, [])
    assert "there is no centre" in done.stderr


@pytest.mark.parametrize("url", ["redis://localhost:1/0", "rediss://anna:s3cr3t@localhost:1/0", "localhost"])
def test_a_redis_that_is_not_reached_over_tls_is_told_nothing_and_nothing_changes(own_centre, url):
    centre.add_site(own_centre.centre, "west")
    before = {path: path.read_bytes() for path in own_centre.folder.rglob("*") if path.is_file()}
    for change, name in ((centre.add_site, "east"), (centre.remove_site, "west")):
        with pytest.raises(SettingsError) as raised:
            change(own_centre.centre, name, url)
        assert "expected rediss://<host>:<port>/<database>" in str(raised.value)
        assert "s3cr3t" not in str(raised.value)
    assert {path: path.read_bytes() for path in own_centre.folder.rglob("*") if path.is_file()} == before


def test_a_worker_has_one_file_or_names(tmp_path):
    with pytest.raises(ExperimentError, match="--site: expected one file, or names, got a.toml, b.toml"):
        administration.worker(["a.toml", "b.toml"])
    with pytest.raises(ExperimentError, match="expected one file, or names"):
        administration.worker(["a.toml", "north"])
    with pytest.raises(SettingsError, match="cannot be read"):
        administration.worker([str(tmp_path / "site.toml")])


@pytest.mark.parametrize("name", ["", "name = 3", 'name = "a b"', 'name = "../x"'])
def test_a_sites_file_names_a_site(tmp_path, name):
    (tmp_path / "site.toml").write_text(name)
    with pytest.raises(SettingsError):
        administration.site_name(tmp_path / "site.toml")


def test_a_worker_says_in_one_line_that_it_was_removed(tls_centre):
    name = a_name()
    centre.add_site(tls_centre.centre, name)
    file = tls_centre.file(name)
    centre.remove_site(tls_centre.centre, name)
    done = run("worker", "--site", file)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.endswith("(invalid username-password pair or user is disabled.)")
