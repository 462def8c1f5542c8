"""WebSockets through the Wrenn SDK: streamed commands and terminals."""


def test_a_streamed_command(capsule):
    events = list(capsule.commands.stream("echo out; echo err >&2; exit 3"))
    assert events[0].type == "start" and events[0].pid > 0
    assert "".join(event.data for event in events if event.type == "stdout") == "out\n"
    assert "".join(event.data for event in events if event.type == "stderr") == "err\n"
    assert (events[-1].type, events[-1].exit_code) == ("exit", 3)


def test_a_background_process_can_be_attached_to(capsule, place):
    handle = capsule.commands.run(f"until [ -e {place} ]; do sleep 0.1; done; echo done", background=True)
    text = ""
    for event in capsule.commands.connect(handle.pid):
        if event.type == "start":
            capsule.files.write(place, "")
        text += getattr(event, "data", "") if event.type == "stdout" else ""
    assert text == "done\n"


def output_until(terminal, wanted):
    text = b""
    for event in terminal:
        if event.type == "output":
            text += event.data
        if wanted in text:
            return text
    raise AssertionError(f"the terminal ended after {text!r}")


def test_a_terminal(capsule):
    with capsule.pty(cols=80, rows=24) as terminal:
        terminal.write(b"stty size\n")
        output_until(terminal, b"24 80")
        terminal.resize(100, 30)
        terminal.write(b"stty size\n")
        output_until(terminal, b"30 100")
        terminal.write(b"exit 4\n")
        assert [event.exit_code for event in terminal if event.type == "exit"] == [4]


def test_a_terminal_can_be_found_again(capsule):
    with capsule.pty() as terminal:
        terminal.write(b"X=kept; echo ready-$X\n")
        output_until(terminal, b"ready-kept")
        with capsule.pty_connect(terminal.tag) as again:
            again.write(b"echo again-$X\n")
            output_until(again, b"again-kept")
