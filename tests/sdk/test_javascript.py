"""The E2B JavaScript SDK: one script, run by node."""

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def test_e2b_javascript():
    assert (HERE / "node_modules" / "e2b").is_dir(), "run `npm ci` in tests/sdk first"
    ran = subprocess.run(["node", "--test", "e2b.test.mjs"], cwd=HERE, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
