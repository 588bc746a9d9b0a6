import os
import re
import shutil
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator import deployment
from tests.conftest import REPOSITORY
from workers.errors import NotFound

DOCKER = REPOSITORY / "docker"


def variables(text):
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def test_a_centre_gets_the_files_that_its_containers_are_started_with(tmp_path):
    deployment.write_centre(tmp_path, 7000)
    ours = (DOCKER / "compose.yaml").read_text()
    build = "    build: # in fedelta's docker/ folder; a centre's copy of this file has no such lines\n"
    build += "      context: ..\n      dockerfile: docker/Dockerfile\n"
    assert build in ours
    assert (tmp_path / "compose.yaml").read_text() == ours.replace(build, "")
    assert (tmp_path / "experiments").is_dir()
    for name in deployment.MONITORING:
        copied = tmp_path / "monitoring" / name
        assert copied.read_bytes() == (DOCKER / "monitoring" / name).read_bytes()


def test_every_file_that_the_compose_file_mounts_is_there(tmp_path):
    deployment.write_centre(tmp_path, 7000)
    mounted = re.findall(r"- \./(monitoring/[^:]+):", (tmp_path / "compose.yaml").read_text())
    assert mounted
    assert [name for name in mounted if not (tmp_path / name).is_file()] == []


def test_a_centres_variables_are_this_user_this_image_and_this_port_on_this_machine_only(tmp_path):
    deployment.write_centre(tmp_path, 7000)
    found = variables((tmp_path / ".env").read_text())
    assert found == {
        "FEDELTA_IMAGE": f"fedelta:{version('fedelta')}",
        "FEDELTA_CENTRE": "./",
        "FEDELTA_USER": "10001:10001" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}",
        "FEDELTA_EXPERIMENTS": "./experiments",
        "FEDELTA_LISTEN": "127.0.0.1",
        "FEDELTA_PORT": "7000",
        "FEDELTA_FLOWER_PORT": "5555",
    }


def test_variables_that_a_person_has_changed_are_kept(tmp_path):
    deployment.write_centre(tmp_path, 7000)
    (tmp_path / ".env").write_text("FEDELTA_LISTEN=0.0.0.0\n")
    deployment.write_centre(tmp_path, 7000)
    assert (tmp_path / ".env").read_text() == "FEDELTA_LISTEN=0.0.0.0\n"


def test_every_variable_that_is_written_is_one_that_the_compose_files_read(tmp_path):
    deployment.write_centre(tmp_path, 7000)
    read = set(re.findall(r"\$\{(\w+)", (tmp_path / "compose.yaml").read_text()))
    written = variables((tmp_path / ".env").read_text()).keys() - {"COMPOSE_PROJECT_NAME"}
    assert written <= read
    files = deployment.site_files("east", "here:1")
    read = set(re.findall(r"\$\{(\w+)", files["compose.yaml"]))
    assert variables(files[".env"]).keys() - {"COMPOSE_PROJECT_NAME"} <= read


def test_two_hospitals_on_one_machine_are_two_projects():
    projects = {
        variables(deployment.site_files(site, "here:1")[".env"])["COMPOSE_PROJECT_NAME"]
        for site in ("east", "west")
    }
    assert projects == {"fedelta-east", "fedelta-west"}


def test_no_hospitals_worker_listens_on_a_port():
    assert not re.search(
        r"^\s*(ports|expose):", deployment.site_files("east", "here:1")["compose.yaml"], re.MULTILINE
    )


def test_the_files_are_found_where_they_were_installed_or_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(deployment, "__file__", str(tmp_path / "orchestrator" / "deployment.py"))
    installed = tmp_path / "share" / "fedelta" / "docker"
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(NotFound, match=re.escape(f"are not where they were installed: {installed}")):
        deployment.site_files("east", "here:1")
    shutil.copytree(DOCKER, installed)
    assert (
        deployment.site_files("east", "here:1")["compose.yaml"] == (DOCKER / "site.compose.yaml").read_text()
    )


def test_what_is_installed_is_every_file_that_is_copied():
    written = Path(REPOSITORY / "pyproject.toml").read_text()
    for name in ("compose.yaml", "site.compose.yaml", "site.README.txt"):
        assert f'"docker/{name}"' in written
    assert '"share/fedelta/docker/monitoring" = ["docker/monitoring/*"]' in written
