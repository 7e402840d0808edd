"""cluster/kubernetes/network.yaml: download nodes may reach the networks that the download itself calls public."""

import ipaddress

import pytest
from kubernetes_files import of_kind

from emage.data.ingest.download import public_addresses


def blocks() -> dict[str, list[str]]:
    """Return the networks that download nodes may reach, each with its exceptions."""
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    rules = policies["download-nodes-and-heads-to-the-web"]["egress"]
    peers = [peer for rule in rules if "ports" not in rule for peer in rule["to"]]
    return {peer["ipBlock"]["cidr"]: peer["ipBlock"]["except"] for peer in peers if "ipBlock" in peer}


def test_the_policy_has_the_networks_of_the_download():
    ours = public_addresses
    ipv4 = {*ours.SPECIAL_IPV4, *(name for name in ours.CLOUD_SERVICES if "." in name)}
    ipv6 = {*ours.SPECIAL_IPV6, ours.NAT64, *(name for name in ours.CLOUD_SERVICES if "." not in name)}
    assert blocks().keys() == {"0.0.0.0/0", "::/0"}
    assert sorted(blocks()["0.0.0.0/0"]) == sorted(ipv4)
    assert sorted(blocks()["::/0"]) == sorted(ipv6)


@pytest.mark.parametrize(
    ("address", "is_reached"),
    [
        *(("8.8.8.8", True), ("2606:4700::1", True), ("169.254.169.254", False), ("168.63.129.16", False)),
        *(("192.0.0.192", False), ("100.100.100.200", False), ("fd00:ec2::254", False), ("64:ff9b::a9fe:a9fe", False)),
    ],
)
def test_addresses(address, is_reached):
    ip = ipaddress.ip_address(address)
    (exceptions,) = (others for name, others in blocks().items() if ip in ipaddress.ip_network(name))
    assert any(ip in ipaddress.ip_network(name) for name in exceptions) != is_reached


def test_only_prometheus_reaches_the_metrics_from_outside():
    """Ray's metrics ports ask for no token. What has no policy of ingress is closed: the namespace's default."""
    admitted = {}
    for policy in of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            peers = rule.get("from", [{"everyone": True}])
            outside = [peer for peer in peers if "podSelector" not in peer or "namespaceSelector" in peer]
            if outside:
                admitted[policy["metadata"]["name"]] = (outside, [port["port"] for port in rule["ports"]])
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert admitted.pop("prometheus-to-ray-nodes") == ([monitoring], [8080])
    ports = {name: ports for name, (_, ports) in admitted.items()}
    assert ports == {"everyone-to-the-endpoint": [8000], "operator-to-heads": [8265]}
    (closed,) = (p for p in of_kind("NetworkPolicy") if not p["spec"]["podSelector"] and not p["spec"].get("ingress"))
    assert "Ingress" in closed["spec"]["policyTypes"]
