"""The command line against a running platform: results on stdout, exit codes, bytes as they are."""

import json
import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
WRENN = os.environ.get("WRENN_BIN") or str(Path(os.environ.get("CARGO_TARGET_DIR", CHECKOUT / "target")) / "debug" / "wrenn")
GONE = "cl-0000000000000000000000001"


def wrenn(*args, code=0, stdin=b""):
    ran = subprocess.run([WRENN, *args], input=stdin, capture_output=True, timeout=240)
    assert ran.returncode == code, (args, ran)
    return ran


def as_json(*args, **options):
    return json.loads(wrenn("--json", *args, **options).stdout)


@pytest.fixture(scope="module")
def made():
    capsule = as_json("capsule", "create", "--metadata", "from=cli", "--env", "A=1")
    yield capsule
    wrenn("capsule", "rm", capsule["id"])


def test_objects(made):
    assert (made["status"], made["metadata"]["from"]) == ("running", "cli")
    assert made["isolation"] in ("firecracker", "qemu-kvm", "qemu-tcg")
    assert as_json("capsule", "get", made["id"])["id"] == made["id"]
    assert made["id"] in [capsule["id"] for capsule in as_json("capsule", "list")["capsules"]]


def test_table(made):
    lines = wrenn("capsule", "list").stdout.decode().splitlines()
    assert lines[0].split() == ["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "ISOLATION", "AGE"]
    assert any(line.startswith(made["id"]) for line in lines[1:])


def test_exec_passes_bytes_and_code_on(made):
    ran = wrenn("capsule", "exec", made["id"], "--", "sh", "-c", "printf 'a\\377\\0b'; echo err >&2; exit 42", code=42)
    assert (ran.stdout, ran.stderr) == (b"a\xff\x00b", b"err\n")
    assert wrenn("capsule", "exec", made["id"], "sh", "-c", "echo $A").stdout == b"1\n"


def test_exec_options(made):
    ran = wrenn("capsule", "exec", "-u", "user", "-w", "/usr", "-e", "B=2", made["id"], "sh", "-c", "id -un; pwd; echo $B")
    assert ran.stdout == b"user\n/usr\n2\n"


def test_exec_tells_the_platforms_failures_from_the_commands(made):
    wrenn("capsule", "exec", GONE, "true", code=125)
    wrenn("capsule", "exec", "--timeout", "1", made["id"], "sleep", "60", code=124)


def test_copy_there_and_back(made, tmp_path):
    (tmp_path / "there").write_bytes(os.urandom(3 << 20))
    wrenn("capsule", "cp", str(tmp_path / "there"), f"{made['id']}:/tmp/copies/")
    wrenn("capsule", "cp", f"{made['id']}:/tmp/copies/there", str(tmp_path / "back"))
    assert (tmp_path / "there").read_bytes() == (tmp_path / "back").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "there"]


def test_copy_standard_streams(made):
    wrenn("capsule", "cp", "-", f"{made['id']}:/tmp/streamed", stdin=b"x\0y")
    assert wrenn("capsule", "cp", f"{made['id']}:/tmp/streamed", "-").stdout == b"x\0y"


def test_pause_resume_and_wrong_states(made):
    assert as_json("capsule", "pause", made["id"])["status"] == "paused"
    assert b"paused" in wrenn("why", made["id"]).stdout
    ran = wrenn("capsule", "pause", made["id"], code=4)
    assert ran.stderr.startswith(b"error: ") and b"\nhint: " in ran.stderr
    assert as_json("capsule", "resume", made["id"])["status"] == "running"


def test_missing_things(made, tmp_path):
    wrenn("capsule", "get", GONE, code=3)
    wrenn("capsule", "cp", f"{made['id']}:/there/is/none", str(tmp_path / "x"), code=3)
    assert not list(tmp_path.iterdir())


def test_a_removed_capsule_is_explained():
    capsule = wrenn("capsule", "create").stdout.decode().strip()
    wrenn("capsule", "rm", capsule)
    assert as_json("why", capsule)["reason"] == "user"
