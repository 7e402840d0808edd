"""Addresses that are never connected to, in each notation that carries one; and that others are."""

import ipaddress

import pytest

from emage.data.ingest.download import public_addresses
from emage.data.ingest.download.public_addresses import is_public

PRIVATE_IPV4 = (
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "127.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.175.48.1", "192.31.196.1"),
)
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192")
PRIVATE_IPV6 = (
    *("::", "::1", "::7f00:1", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:2::1", "2001:10::1"),
    *("2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fd20:ce::254", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "2620:4f:8000::1"),
)
PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "168.63.129.17",
    "192.0.1.1",
    "100.128.0.1",
    "172.32.0.1",
    "198.20.0.1",
    "223.255.255.1",
)


@pytest.mark.parametrize("address", [*PRIVATE_IPV4, *METADATA, *PRIVATE_IPV6])
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
def test_an_ipv4_address_inside_an_ipv6_address_decides(prefix):
    assert not any(is_public(prefix + address) for address in (*PRIVATE_IPV4, *METADATA))
    assert all(is_public(prefix + address) for address in PUBLIC)


def test_public_addresses():
    assert all(map(is_public, (*PUBLIC, "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888")))


def test_the_list_does_not_depend_on_the_interpreter(monkeypatch):
    """Releases of Python differ in what they call global: the list alone rejects all of its networks."""
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        monkeypatch.setattr(kind, "is_global", property(lambda self: True))
        monkeypatch.setattr(kind, "is_reserved", property(lambda self: False))
        monkeypatch.setattr(kind, "is_multicast", property(lambda self: False))
    unassigned = "4000::1"  # by no registry of special purposes
    assert not any(map(is_public, {*PRIVATE_IPV4, *METADATA, *PRIVATE_IPV6} - {unassigned}))
    assert all(map(is_public, PUBLIC))


def test_the_networks_are_written_as_the_registry_writes_them():
    names = [*public_addresses.SPECIAL_IPV4, *public_addresses.SPECIAL_IPV6, *public_addresses.CLOUD_SERVICES]
    networks = [ipaddress.ip_network(name) for name in names]
    assert [str(network) for network in networks] == names
    for network in networks:
        others = [other for other in networks if other != network and other.version == network.version]
        assert not any(network.subnet_of(other) for other in others)  # type: ignore[arg-type]
