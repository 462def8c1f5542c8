"""What a sandbox may reach, through the E2B SDK. That rules are kept to is for the platform's own tests: here is no Internet."""

import pytest
from e2b import Sandbox
from e2b.exceptions import NotFoundException, SandboxException

# The guest's name server refuses to resolve anything while there is nothing to reach (RFC 1035: 5 = refused).
ASK = """python3 -c '
import socket
query = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7example\\3com\\0\\0\\1\\0\\1"
guest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
guest.settimeout(30)
guest.sendto(query, ("169.254.0.22", 53))
print(guest.recv(512)[3] & 15)
'"""


def is_closed(sandbox):
    return sandbox.commands.run(ASK, timeout=60).stdout == "5\n"


def test_rules_are_replaced_while_it_runs(new_sandbox):
    sandbox = new_sandbox(network={"deny_out": ["0.0.0.0/0"]})
    assert is_closed(sandbox)
    sandbox.update_network({"allow_out": ["1.1.1.1"], "deny_out": ["8.8.8.0/24"]})
    assert not is_closed(sandbox)
    info = sandbox.get_info()
    assert info.network["allow_out"] == ["1.1.1.1/32"] and info.network["deny_out"] == ["8.8.8.0/24"]
    sandbox.update_network({"allow_internet_access": False})
    assert is_closed(sandbox)
    sandbox.pause()
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=600, request_timeout=180)
    assert is_closed(sandbox)
    sandbox.update_network({})
    assert not is_closed(sandbox)


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ({"allow_out": ["*.example.com"]}, "allowOut"),
        ({"deny_out": ["::/0"]}, "denyOut"),
        ({"allow_out": ["1.1.1.1"], "rules": {"example.com": [{"transform": {"headers": {"a": "b"}}}]}}, "rules"),
        ({"egress_proxy": {"address": "proxy.example.com:1080"}}, "egressProxy"),
    ],
)
def test_what_there_are_no_means_for_is_refused(sandbox, network, field):
    with pytest.raises(SandboxException, match=field):
        sandbox.update_network(network)


def test_a_killed_one_has_no_rules(new_sandbox):
    sandbox = new_sandbox()
    sandbox.kill()
    with pytest.raises(NotFoundException):
        sandbox.update_network({})
