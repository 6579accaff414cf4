from __future__ import annotations

import ipaddress

import pytest

from accounts.networks import may_connect


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2002:5db8:d822::1"],
)
def test_public_addresses_are_allowed_in_any_form(address: str) -> None:
    assert may_connect(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3",
        "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a00:1",
        "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::1", "2001:0:7f00:1::1",
        "localhost", "127.1", "0x7f.1", "2130706433", "",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused_in_any_form(address: str) -> None:
    assert not may_connect(address, ())


def test_the_operator_may_allow_a_network_in_either_form() -> None:
    allowed = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    assert all(may_connect(address, allowed) for address in ("10.1.2.3", "fd12::1", "::ffff:10.1.2.3", "2002:a00:1::1"))
    assert not any(may_connect(address, allowed) for address in ("11.0.0.1%x", "127.0.0.1", "::1", "192.168.0.1"))
