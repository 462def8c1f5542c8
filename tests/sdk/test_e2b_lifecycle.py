"""A sandbox's life through the E2B SDK."""

import re
from datetime import timedelta

import pytest
from e2b import Sandbox, SandboxQuery, SandboxState
from e2b.exceptions import AuthenticationException, NotFoundException, SandboxException, TimeoutException
from eventually import eventually


def listed(states=None, **metadata):
    query = SandboxQuery(metadata=metadata, state=states)
    return {info.sandbox_id: info for info in Sandbox.list(query=query).next_items()}


def test_create_and_kill(new_sandbox):
    sandbox = new_sandbox(metadata={"who": "a b/ü"}, envs={"GREETING": "hello"}, timeout=300)
    assert re.fullmatch("[a-z0-9]+", sandbox.sandbox_id)
    assert sandbox.is_running()
    assert sandbox.commands.run("echo $GREETING").stdout == "hello\n"

    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.state == SandboxState.RUNNING
    assert info.metadata["who"] == "a b/ü"
    assert info.end_at - info.started_at >= timedelta(seconds=290)
    assert sandbox.sandbox_id in listed(who="a b/ü")

    assert sandbox.kill()
    assert not sandbox.is_running()
    assert not sandbox.kill()
    assert sandbox.sandbox_id not in listed(who="a b/ü")
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox.sandbox_id)
    with pytest.raises(SandboxException):
        sandbox.commands.run("true")


def test_fork_copies_memory_processes_and_files(new_sandbox):
    sandbox = new_sandbox(metadata={"who": "source"}, envs={"GREETING": "hello"}, timeout=600)
    sandbox.files.write("/home/user/file", "on disk")
    counter = sandbox.commands.run("i=0; while :; do i=$((i+1)); echo $i > /dev/shm/n; sleep 0.1; done", background=True)
    forks = sandbox.fork(count=2, timeout=300)
    try:
        for fork in forks:
            assert not isinstance(fork, Exception), fork
            assert fork.files.read("/home/user/file") == "on disk"
            assert fork.commands.run("echo $GREETING").stdout == "hello\n"
            assert counter.pid in [process.pid for process in fork.commands.list()]
            first = int(fork.files.read("/dev/shm/n"))
            assert eventually(lambda fork=fork, first=first: int(fork.files.read("/dev/shm/n")) > first)
            info = fork.get_info()
            assert info.metadata["who"] == "source"
            assert timedelta(seconds=295) <= info.end_at - info.started_at <= timedelta(seconds=320)
        assert len({sandbox.sandbox_id, *(fork.sandbox_id for fork in forks)}) == 3
        forks[0].files.write("/home/user/file", "changed")
        assert forks[1].files.read("/home/user/file") == sandbox.files.read("/home/user/file") == "on disk"
    finally:
        for fork in forks:
            if not isinstance(fork, Exception):
                fork.kill()
    with pytest.raises(NotFoundException):
        forks[0].fork()


def test_snapshots_are_templates(new_sandbox):
    sandbox = new_sandbox(timeout=600)
    sandbox.files.write("/home/user/file", "on disk")
    sandbox.files.write("/dev/shm/file", "in memory")
    snapshot = sandbox.create_snapshot("sdk-snapshot")
    assert snapshot.names == ["sdk-snapshot"]
    disk = sandbox.create_snapshot(mode="filesystem")
    assert disk.names == []
    try:
        assert sandbox.files.read("/dev/shm/file") == "in memory"
        found = [other.snapshot_id for other in sandbox.list_snapshots().next_items()]
        assert found == [disk.snapshot_id, snapshot.snapshot_id]
        for template in ("sdk-snapshot", snapshot.snapshot_id):
            clone = new_sandbox(template=template, timeout=300)
            assert clone.files.read("/dev/shm/file") == "in memory"
        booted = new_sandbox(template=disk.snapshot_id, timeout=300)
        assert booted.files.read("/home/user/file") == "on disk"
        assert not booted.files.exists("/dev/shm/file")
    finally:
        for kept in (snapshot, disk):
            assert Sandbox.delete_snapshot(kept.snapshot_id)
            assert not Sandbox.delete_snapshot(kept.snapshot_id)


def test_a_pause_of_the_file_system_reboots(new_sandbox):
    sandbox = new_sandbox(timeout=600)
    sandbox.files.write("/home/user/file", "on disk")
    boot = sandbox.files.read("/proc/sys/kernel/random/boot_id")
    sandbox.pause(mode="filesystem")
    sandbox.connect(timeout=300)
    assert sandbox.files.read("/home/user/file") == "on disk"
    assert sandbox.files.read("/proc/sys/kernel/random/boot_id") != boot


def test_wrong_keys_and_templates_are_refused():
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "0" * 32)
    with pytest.raises(SandboxException):
        Sandbox.create(template="there-is-no-such-template")


def test_set_timeout_moves_the_end_both_ways(new_sandbox):
    sandbox = new_sandbox(timeout=300)
    first = sandbox.get_info().end_at
    sandbox.set_timeout(1200)
    later = sandbox.get_info().end_at
    assert later > first
    sandbox.set_timeout(120)
    assert sandbox.get_info().end_at < first


def test_connect_never_shortens(new_sandbox):
    sandbox = new_sandbox(timeout=900)
    end = sandbox.get_info().end_at
    other = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert other.get_info().end_at == end
    assert other.commands.run("echo same").stdout == "same\n"


def test_the_end_of_the_timeout_kills(new_sandbox):
    sandbox = new_sandbox()
    sandbox.set_timeout(0)
    eventually(lambda: not sandbox.is_running())
    eventually(lambda: sandbox.sandbox_id not in listed())


def test_the_end_of_the_timeout_pauses_when_asked(new_sandbox):
    sandbox = new_sandbox(lifecycle={"on_timeout": "pause"})
    sandbox.files.write("/tmp/kept", "kept")
    sandbox.set_timeout(0)
    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED)
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert sandbox.files.read("/tmp/kept") == "kept"


def test_pause_keeps_processes_memory_and_files(new_sandbox):
    sandbox = new_sandbox(metadata={"test": "pause"})
    boot = sandbox.files.read("/proc/sys/kernel/random/boot_id")
    sandbox.files.write("/dev/shm/memory", "in memory", user="root")
    sandbox.files.write("/home/user/disk", "on disk")
    sleeper = sandbox.commands.run("sleep 3600", background=True, timeout=0)

    assert sandbox.pause()
    assert not sandbox.is_running()
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert sandbox.sandbox_id in listed([SandboxState.PAUSED], test="pause")
    assert sandbox.sandbox_id not in listed([SandboxState.RUNNING], test="pause")
    assert not sandbox.pause()

    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=600, request_timeout=180)
    assert sandbox.get_info().state == SandboxState.RUNNING
    assert sandbox.files.read("/proc/sys/kernel/random/boot_id") == boot
    assert sandbox.files.read("/dev/shm/memory", user="root") == "in memory"
    assert sandbox.files.read("/home/user/disk") == "on disk"
    assert sleeper.pid in [process.pid for process in sandbox.commands.list()]


def test_pause_works_again_and_again(new_sandbox):
    sandbox = new_sandbox()
    for turn in range(3):
        sandbox.commands.run(f"echo {turn} >> /home/user/turns")
        assert sandbox.pause()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=600, request_timeout=180)
    assert sandbox.files.read("/home/user/turns") == "0\n1\n2\n"


def test_an_old_handle_survives_pause_and_resume(new_sandbox):
    sandbox = new_sandbox()
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=600, request_timeout=180)
    assert sandbox.commands.run("echo still here").stdout == "still here\n"


def test_a_paused_sandbox_answers_nothing_and_can_be_killed(new_sandbox):
    sandbox = new_sandbox()
    sandbox.pause()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("true")
    assert sandbox.kill()


def test_a_wall_clock_is_right_after_resume(new_sandbox):
    """The guest slept; its clock must not have."""
    sandbox = new_sandbox()
    sandbox.pause()
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=600, request_timeout=180)
    started = sandbox.get_info().started_at.timestamp()
    # `date` cuts to whole seconds.
    assert int(sandbox.commands.run("date +%s").stdout) >= int(started)


def test_pages_of_a_list_are_complete_and_disjoint(new_sandbox):
    made = {new_sandbox(metadata={"test": "pages"}).sandbox_id for _ in range(3)}
    pages = Sandbox.list(query=SandboxQuery(metadata={"test": "pages"}), limit=2)
    seen = []
    while pages.has_next:
        seen += [info.sandbox_id for info in pages.next_items()]
    assert sorted(seen) == sorted(made)
