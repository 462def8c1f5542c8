"""The Wrenn SDK."""

import hashlib
import os

import pytest
from eventually import eventually
from wrenn import Capsule, WrennClient
from wrenn.exceptions import (
    WrennAuthenticationError,
    WrennConflictError,
    WrennError,
    WrennNotFoundError,
    WrennValidationError,
)


def test_life():
    capsule = Capsule(vcpus=1, memory_mb=512, timeout=3600)
    try:
        capsule.wait_ready(timeout=180)
        info = capsule.get_info()
        assert (info.status, info.vcpus, info.memory_mb, info.timeout_sec) == ("running", 1, 512, 3600)
        assert capsule.capsule_id in [other.id for other in Capsule.list()]
        boot = capsule.files.read("/proc/sys/kernel/random/boot_id")
        capsule.files.write("/dev/shm/memory", "in memory")

        capsule.pause(wait=True)
        assert capsule.get_info().status == "paused"
        with pytest.raises(WrennConflictError):
            capsule.commands.run("true")

        capsule.resume(wait=True)
        assert capsule.files.read("/dev/shm/memory") == "in memory"
        assert capsule.files.read("/proc/sys/kernel/random/boot_id") == boot
    finally:
        capsule.destroy(wait=True)
    assert capsule.get_info().status == "stopped"
    assert capsule.capsule_id not in [other.id for other in Capsule.list()]


def test_snapshots_are_templates(capsule):
    capsule.files.write("/dev/shm/memory", "in memory")
    with WrennClient() as client:
        kept = capsule.create_snapshot(name="wrenn-sdk-snapshot", overwrite=True)
        try:
            assert (kept.name, kept.type) == ("wrenn-sdk-snapshot", "snapshot")
            assert kept.name in [template.name for template in client.snapshots.list()]
            clone = Capsule(template=kept.name)
            try:
                clone.wait_ready(timeout=180)
                assert clone.files.read("/dev/shm/memory") == "in memory"
            finally:
                clone.destroy(wait=True)
        finally:
            client.snapshots.delete(kept.name)


def test_ping_counts_as_activity(capsule):
    before = capsule.get_info().last_active_at
    capsule.ping()
    assert capsule.get_info().last_active_at >= before


def test_metrics(capsule):
    capsules = WrennClient().capsules
    points = eventually(lambda: capsules.metrics(capsule.capsule_id, range="5m").points)
    assert all(0 <= point.cpu_pct <= 100 and point.mem_bytes > 0 and point.disk_bytes > 0 for point in points)
    assert capsules.metrics(capsule.capsule_id, range="24h").points
    with pytest.raises(WrennValidationError):
        capsules.metrics(capsule.capsule_id, range="3m")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.capsules.create(template="there-is-no-such-template"), WrennNotFoundError),
        (lambda client: client.capsules.create(template="../etc"), WrennValidationError),
        (lambda client: client.capsules.create(memory_mb=-1), WrennValidationError),
        (lambda client: client.capsules.get("cl-0000000000000000000000001"), WrennNotFoundError),
        (lambda client: client.capsules.get("nonsense"), WrennValidationError),
    ],
)
def test_refusals(call, error):
    with WrennClient() as client, pytest.raises(error):
        call(client)


def test_a_wrong_key_is_refused():
    with WrennClient(api_key="wrn_" + "0" * 32) as client, pytest.raises(WrennAuthenticationError):
        client.capsules.list()


def test_exec(capsule):
    result = capsule.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)


def test_exec_runs_as_root_at_home(capsule):
    assert capsule.commands.run("id -un; pwd").stdout == "root\n/root\n"


def test_exec_environment_and_directory(capsule):
    assert capsule.commands.run("echo $A; pwd", envs={"A": "1"}, cwd="/usr").stdout == "1\n/usr\n"


def test_exec_output_that_is_not_text(capsule):
    assert capsule.commands.run("printf 'a\\377b'").stdout == "a\ufffdb"


def test_exec_ends_at_its_timeout(capsule):
    with pytest.raises(WrennError):
        capsule.commands.run("exec sleep 4321", timeout=2)
    eventually(lambda: "4321" not in capsule.commands.run("pgrep -fa '[s]leep 4321'").stdout)


def test_background_processes(capsule):
    handle = capsule.commands.run("sleep 3600", background=True, tag="sleeper")
    assert handle.tag == "sleeper"
    listed = {process.pid: process for process in capsule.commands.list()}
    assert listed[handle.pid].tag == "sleeper"
    capsule.commands.kill(handle.pid)
    eventually(lambda: handle.pid not in [process.pid for process in capsule.commands.list()])
    with pytest.raises(WrennNotFoundError):
        capsule.commands.kill(handle.pid)


def test_a_tag_is_made_up_when_none_is_given(capsule):
    handle = capsule.commands.run("true", background=True)
    assert handle.tag.startswith("proc-") and len(handle.tag) == 13


def test_files(capsule, place):
    capsule.files.write(f"{place}/dir/a.bin", bytes(range(256)))
    assert capsule.files.read_bytes(f"{place}/dir/a.bin") == bytes(range(256))
    entry = capsule.files.list(f"{place}/dir")[0]
    assert (entry.name, entry.type, entry.size, entry.permissions) == ("a.bin", "file", 256, "-rw-r--r--")
    assert capsule.files.exists(f"{place}/dir/a.bin")
    capsule.files.remove(place)
    assert not capsule.files.exists(place)


def test_directories(capsule, place):
    assert capsule.files.make_dir(f"{place}/a/b").type == "directory"
    assert capsule.files.make_dir(f"{place}/a/b").path == f"{place}/a/b"
    assert {entry.path for entry in capsule.files.list(place, depth=2)} == {f"{place}/a", f"{place}/a/b"}


def test_streams(capsule, place):
    chunks = [os.urandom(1 << 20) for _ in range(8)]
    capsule.files.upload_stream(place, iter(chunks))
    digest = capsule.commands.run(f"sha256sum {place}").stdout.split()[0]
    assert digest == hashlib.sha256(b"".join(chunks)).hexdigest()
    assert b"".join(capsule.files.download_stream(place)) == b"".join(chunks)


def test_missing_files_have_their_own_error(capsule, place):
    for call in (capsule.files.read, capsule.files.list, capsule.files.remove):
        with pytest.raises(WrennNotFoundError):
            call(place)
    with pytest.raises(WrennValidationError):
        capsule.files.read("/dev/zero")
