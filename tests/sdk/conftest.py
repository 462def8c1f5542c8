"""Fixtures on a running platform. Address and keys come from credentials.json in $WRENN_DIR."""

import json
import os
import uuid
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
WRENN_DIR = Path(os.environ.get("WRENN_DIR") or CHECKOUT / ".wrenn")
# Marks every sandbox of this run, so that the last fixture can tell ours from others.
RUN = uuid.uuid4().hex


def pytest_configure():
    """The SDKs read the environment when they are used; set it before the first test module is imported."""
    path = WRENN_DIR / "credentials.json"
    if not path.is_file():
        pytest.exit(f"{path} does not exist: start a platform with `wrenn up`", returncode=2)
    credentials = json.loads(path.read_text())
    for name in [name for name in os.environ if name.startswith("E2B_")]:
        del os.environ[name]
    os.environ.update(
        E2B_API_URL=credentials["base_url"],
        E2B_SANDBOX_URL=credentials["base_url"],
        E2B_API_KEY=credentials["e2b_api_key"],
        WRENN_BASE_URL=credentials["base_url"],
        WRENN_API_KEY=credentials["api_key"],
        WRENN_DIR=str(WRENN_DIR),
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """What the suite created through the E2B surface is gone at its end."""
    from e2b import Sandbox, SandboxQuery

    yield
    left = Sandbox.list(query=SandboxQuery(metadata={"run": RUN})).next_items()
    for sandbox in left:
        Sandbox.kill(sandbox.sandbox_id)
    assert not left


@pytest.fixture
def new_sandbox():
    """Makes sandboxes that live as long as the test."""
    from e2b import Sandbox

    made = []

    def make(**options):
        options.setdefault("timeout", 600)
        options["metadata"] = {"run": RUN, **options.get("metadata", {})}
        sandbox = Sandbox.create(request_timeout=180, **options)
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture(scope="module")
def sandbox():
    """One E2B sandbox for the tests of a module that leave it as they found it."""
    from e2b import Sandbox

    sandbox = Sandbox.create(timeout=1800, metadata={"run": RUN}, request_timeout=180)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def place(request):
    """A path in the guest that no other test uses."""
    return f"/tmp/{request.node.name.replace('[', '-').rstrip(']')}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def capsule():
    """One Wrenn capsule for the tests of a module."""
    from wrenn import Capsule

    capsule = Capsule()
    try:
        capsule.wait_ready(timeout=180)
        yield capsule
    finally:
        capsule.destroy(wait=True)
