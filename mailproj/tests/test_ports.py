"""Which ports can be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mailproj.ports import free_port, is_free, reachable, web_addresses, written


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free("127.0.0.1", taken)


def test_a_port_without_one_is_free() -> None:
    assert is_free("127.0.0.1", free_port())


def test_an_address_of_another_machine_is_not_free() -> None:
    assert not is_free("192.0.2.1", free_port())


def test_an_extra_port_that_is_taken_is_left_out_with_a_warning(taken: int) -> None:
    free, warnings = free_port(), list[str]()
    assert web_addresses("127.0.0.1", 8000, [taken, free], warnings.append) == ["127.0.0.1:8000", f"127.0.0.1:{free}"]
    assert warnings == [f"HTTP_EXTRA_PORTS: 127.0.0.1:{taken} is in use by another program and is left out."]


def test_the_main_port_is_bound_once_though_it_is_an_extra_one_too() -> None:
    assert web_addresses("127.0.0.1", 8000, [8000], pytest.fail) == ["127.0.0.1:8000"]


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert written("::1", 25) == "[::1]:25"


def test_a_listener_on_all_addresses_is_reached_on_loopback() -> None:
    assert (reachable("0.0.0.0"), reachable("::"), reachable("192.0.2.1")) == ("127.0.0.1", "::1", "192.0.2.1")
