"""Waiting for what the platform does by itself."""

import time


def eventually(probe, limit_s=120):
    """The first true value of `probe`."""
    deadline = time.monotonic() + limit_s
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.25)
