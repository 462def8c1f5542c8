"""Commands through the E2B SDK."""

import pytest
from e2b import CommandExitException
from e2b.exceptions import InvalidArgumentException, SandboxException, TimeoutException
from eventually import eventually


def test_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_a_failing_command_raises_with_its_output(sandbox):
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo out; echo err >&2; exit 7")
    assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (7, "out\n", "err\n")


def test_text_beyond_ascii_arrives_whole(sandbox):
    text = "Zürich – 東京 🐦" * 500
    assert sandbox.commands.run('printf %s "$TEXT"', envs={"TEXT": text}).stdout == text


def test_much_output_arrives_whole(sandbox):
    assert len(sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x").stdout) == 3_000_000


def test_output_is_delivered_while_the_command_runs(sandbox, place):
    seen = []

    def saw(text):
        seen.append(text)
        # The command waits for this file: it can end only if its output reached us before its end.
        sandbox.files.write(place, "go on")

    sandbox.commands.run(f"echo first; until [ -e {place} ]; do sleep 0.1; done; echo second", on_stdout=saw)
    assert "".join(seen) == "first\nsecond\n"


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, "user /home/user\n"),
        # As at E2B: the template's default directory holds for every user.
        ({"user": "root"}, "root /home/user\n"),
        ({"cwd": "/usr"}, "user /usr\n"),
        ({"user": "root", "cwd": "/tmp"}, "root /tmp\n"),
    ],
)
def test_user_and_directory(sandbox, options, want):
    assert sandbox.commands.run('echo "$(id -un) $(pwd)"', **options).stdout == want


def test_environment_of_one_command(sandbox):
    assert sandbox.commands.run("echo $A-$HOME", envs={"A": "1"}).stdout == "1-/home/user\n"
    assert sandbox.commands.run("echo $A-").stdout == "-\n"


def test_the_default_user_may_become_root(sandbox):
    assert sandbox.commands.run("sudo id -u").stdout == "0\n"


def test_what_cannot_start_raises(sandbox):
    with pytest.raises((InvalidArgumentException, SandboxException)):
        sandbox.commands.run("true", cwd="/there/is/no/such/directory")
    with pytest.raises(Exception):
        sandbox.commands.run("true", user="nobody-of-that-name")


def test_a_background_command_is_listed_and_waited_for(sandbox, place):
    handle = sandbox.commands.run(f"until [ -e {place} ]; do sleep 0.1; done; echo done", background=True)
    listed = {process.pid: process for process in sandbox.commands.list()}
    assert handle.pid in listed
    assert place in " ".join(listed[handle.pid].args)
    sandbox.files.write(place, "")
    assert handle.wait().stdout == "done\n"
    assert handle.pid not in [process.pid for process in sandbox.commands.list()]


def test_a_background_command_can_be_killed(sandbox):
    handle = sandbox.commands.run("sleep 3600", background=True)
    assert sandbox.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()
    assert not sandbox.commands.kill(handle.pid)


def test_a_disconnected_command_goes_on_and_can_be_found_again(sandbox, place):
    handle = sandbox.commands.run(f"until [ -e {place} ]; do sleep 0.1; done; echo done", background=True)
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.files.write(place, "")
    assert again.wait().stdout == "done\n"


def test_standard_input(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "one\n")
    sandbox.commands.send_stdin(handle.pid, "two\n")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "one\ntwo\n"


def test_a_timeout_ends_the_command(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("exec sleep 4321", timeout=2)
    eventually(lambda: "4321" not in sandbox.commands.run("pgrep -fa '[s]leep 4321' || true").stdout)


def test_commands_run_side_by_side(sandbox, place):
    first = sandbox.commands.run(f"until [ -e {place} ]; do sleep 0.1; done", background=True)
    assert sandbox.commands.run("echo meanwhile").stdout == "meanwhile\n"
    sandbox.commands.run(f"touch {place}")
    assert first.wait().exit_code == 0
