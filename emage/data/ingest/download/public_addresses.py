"""Which IP addresses are public: the only ones that the download connects to.

The interpreter's `is_global` knows the registries of its own release, and no cloud's services. So the networks are
listed here as well, and an address must pass both. cluster/kubernetes/network.yaml has the same networks for download
nodes; tests/cluster/test_network_policy.py compares the two.
"""

import ipaddress

# IANA's special-purpose registries, whole, multicast and reserved space, as of 2026-12-01. A few of the networks are
# routed (AS112, AMT, 6to4), but no site with images is in them.
SPECIAL_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by customers of a provider; Alibaba Cloud's metadata is 100.100.100.200
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local: the metadata of most clouds is 169.254.169.254
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # IETF protocols; 192.0.0.192 is Oracle Cloud's metadata
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays, deprecated
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, with the broadcast address
)
SPECIAL_IPV6 = (
    "::/96",  # unspecified, loopback, IPv4-compatible (deprecated)
    "64:ff9b:1::/48",  # NAT64 of one site alone
    "100::/64",  # discarded
    "100:0:0:1::/64",  # dummy prefix
    "2001::/23",  # IETF protocols: Teredo, ORCHID, benchmarks
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4, deprecated
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
    "5f00::/16",  # segment routing
    "fc00::/7",  # private; fd00:ec2::254 and fd20:ce::254 are metadata of AWS and Google Cloud
    "fe80::/10",  # link-local
    "fec0::/10",  # site-local, deprecated
    "ff00::/8",  # multicast
)
# Services of clouds at addresses that look public.
CLOUD_SERVICES = ("168.63.129.16/32",)  # Azure's WireServer
# An IPv6 address in one of these holds an IPv4 address in its last 32 bits, which decides.
NAT64 = "64:ff9b::/96"
IPV4_MAPPED = "::ffff:0:0/96"  # never on a network: the system connects over IPv4

_NOT_PUBLIC = [ipaddress.ip_network(name) for name in (*SPECIAL_IPV4, *SPECIAL_IPV6, *CLOUD_SERVICES)]
_IPV4_INSIDE = [ipaddress.IPv6Network(name) for name in (NAT64, IPV4_MAPPED)]


def is_public(address: str) -> bool:
    """Return True if an IP address is public. If an IPv6 address contains an IPv4 address, that one decides."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in network for network in _IPV4_INSIDE):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if any(ip in network for network in _NOT_PUBLIC if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
