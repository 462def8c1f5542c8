"""What a sandbox uses, through the E2B SDK."""

from datetime import datetime, timedelta, timezone

import pytest
from e2b import Sandbox
from e2b.exceptions import SandboxNotFoundException
from eventually import eventually


def test_points_come_soon_and_say_what_it_has(new_sandbox):
    sandbox = new_sandbox()
    points = eventually(sandbox.get_metrics, limit_s=30)
    for point in points:
        assert point.cpu_count == 1 and 0 <= point.cpu_used_pct <= 100
        assert point.mem_total == 512 << 20 and 0 < point.mem_used <= point.mem_total
        assert point.disk_total == 5120 << 20 and 0 < point.disk_used <= point.disk_total
    times = [point.timestamp for point in points]
    assert times == sorted(set(times))

    busy = sandbox.commands.run("while :; do :; done", background=True)
    eventually(lambda: max(point.cpu_used_pct for point in sandbox.get_metrics()) > 50)
    busy.kill()


def test_start_and_end_are_kept_to(new_sandbox):
    sandbox = new_sandbox()
    points = eventually(lambda: (found := sandbox.get_metrics())[4:] and found)
    start, end = points[1].timestamp, points[3].timestamp
    cut = sandbox.get_metrics(start=start, end=end)
    # Whole seconds are asked for.
    assert {start, end} <= {point.timestamp for point in cut}
    second = timedelta(seconds=1)
    assert all(start - second < point.timestamp < end + second for point in cut)
    assert not sandbox.get_metrics(start=datetime.now(timezone.utc) + timedelta(hours=1))


def test_a_paused_sandbox_keeps_its_points(new_sandbox):
    sandbox = new_sandbox()
    before = eventually(sandbox.get_metrics)
    sandbox.pause()
    kept = sandbox.get_metrics()
    assert {point.timestamp for point in before} <= {point.timestamp for point in kept}


def test_a_killed_one_has_none(new_sandbox):
    sandbox = new_sandbox()
    sandbox.kill()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.get_metrics(sandbox.sandbox_id)
