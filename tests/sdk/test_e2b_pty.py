"""Terminals through the E2B SDK."""

import pytest
from e2b import PtySize
from e2b.exceptions import NotFoundException
from eventually import eventually


def read_until(terminal, wanted, seen=""):
    """What the terminal says until it has said `wanted`; fails when it ends before."""
    for _stdout, _stderr, output in terminal:
        seen += (output or b"").decode()
        if wanted in seen:
            return seen
    pytest.fail(f"{wanted!r} did not come, but {seen!r}")


@pytest.fixture
def terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), envs={"PS1": "", "MARK": "here"}, timeout=0)
    yield handle
    sandbox.pty.kill(handle.pid)


def test_input_is_run_in_the_users_shell_with_its_environment(sandbox, terminal):
    # The quotes keep the echoed command line from being what is waited for.
    sandbox.pty.send_stdin(terminal.pid, b'echo "$(id -un)"-"$MARK" "$PWD" "$TERM"\n')
    assert "user-here /home/user xterm" in read_until(terminal, "user-here /home/user xterm")


def test_the_size_is_what_was_asked_for_and_changes(sandbox, terminal):
    sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
    read_until(terminal, "24 80")
    sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=132))
    sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
    read_until(terminal, "40 132")


def test_ctrl_c_interrupts_and_ctrl_d_ends(sandbox, terminal):
    # The command itself says that it runs: until then Ctrl-C is the shell's, which may take it for nobody's.
    sandbox.pty.send_stdin(terminal.pid, b"""sh -c 'echo "run"ning; exec sleep 1000'\n""")
    read_until(terminal, "running")
    sandbox.pty.send_stdin(terminal.pid, b"\x03")
    # A prompt is what only a shell shows whose command is gone, and which takes keys again.
    sandbox.pty.send_stdin(terminal.pid, b'PS1="rea"dy\n')
    read_until(terminal, "ready")
    sandbox.pty.send_stdin(terminal.pid, b"\x04")
    assert terminal.wait().exit_code in (0, 130)


def test_a_terminal_left_alone_goes_on_and_can_be_had_back(sandbox, terminal):
    terminal.disconnect()
    again = sandbox.pty.connect(terminal.pid, timeout=0)
    sandbox.pty.send_stdin(terminal.pid, b'echo "ba"ck\n')
    read_until(again, "back")


def test_a_killed_terminal_is_gone(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=0)
    assert sandbox.pty.kill(handle.pid)
    eventually(lambda: not sandbox.pty.kill(handle.pid))
    with pytest.raises(NotFoundException):
        sandbox.pty.send_stdin(handle.pid, b"x")
