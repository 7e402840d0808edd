"""cluster/kubernetes: published schemas accept every file, and named objects exist."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_files import (
    FILES,
    FOLDER,
    KUBERNETES,
    RAY_FILES,
    ROOT,
    check,
    chosen,
    containers,
    everything,
    groups,
    of_kind,
    pods,
    ray_cluster,
    resources,
    serve_config,
)

from emage.config import ServeConfig, parse

# --- Schemas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_published_schemas_accept_the_file(file: Path, kubernetes: str):
    for resource in resources(file):
        check(resource, kubernetes)
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "emage"


@pytest.mark.parametrize(
    ("name", "path", "field"),
    [
        ("cluster", ("spec",), "enableInTreeAutoscaler"),
        ("cluster", ("spec", "workerGroupSpecs", 0), "minReplica"),
        ("train", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"), "toleration"),
        ("train", ("spec",), "backOffLimit"),
        ("serve", ("spec",), "serveConfigV1"),
        ("mlflow", ("spec",), "clusterIp"),
        ("network", ("spec",), "podselector"),
    ],
)
def test_the_schemas_reject_an_unknown_field(name: str, path: tuple[str | int, ...], field: str):
    resource = copy.deepcopy(resources(FOLDER / f"{name}.yaml")[0])
    place: Any = resource
    for key in path:
        place = place[key]
    place[field] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError), match=field):
        check(resource, KUBERNETES[1])


def test_ray_start_accepts_every_parameter():
    from ray.scripts.scripts import start as ray_start  # a second to import, for every process of the tests

    options = {option for parameter in ray_start.params for option in parameter.opts}
    for name in RAY_FILES:
        for group in groups(name).values():
            assert {f"--{key}" for key in group["rayStartParams"]} <= options
            assert all(float(count) > 0 for count in group.get("resources", {}).values())


def names(value: Any, path: str = "") -> set[str]:
    """Return the path of every field, at any depth: .applications.name."""
    if isinstance(value, list):
        return set().union(*(names(inner, path) for inner in value))
    fields = value.items() if isinstance(value, dict) else ()
    return {f"{path}.{key}" for key, _ in fields}.union(*(names(inner, f"{path}.{key}") for key, inner in fields))


def test_serve_accepts_every_field_and_the_config_is_that_of_serve_yaml():
    from ray.serve.schema import ServeDeploySchema

    committed = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    for config in (serve_config(), committed):
        known = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
        assert names(config) <= names(known)  # the schema drops unknown fields
        (application,) = config["applications"]
        parse(ServeConfig, [f"{key}={value}" for key, value in application["args"].items()])
    committed["http_options"]["host"] = "0.0.0.0"
    committed["applications"][0]["args"]["access.api_key_file"] = "/etc/emage/api_key"
    assert serve_config() == committed


# --- Named objects exist ----------------------------------------------------------------------------------------------


def test_secrets_are_referred_to_and_not_in_the_files():
    assert not of_kind("Secret")
    commands = (FOLDER / "namespace.yaml").read_text().replace("\\\n#", "")
    lines = re.findall(r"create secret generic (\S+) (.*)", commands)
    made = {(name, key) for name, line in lines for key in re.findall(r"--from-literal=(\w+)=", line)}
    wanted = {(ray_cluster(name)["authOptions"]["secretName"], "auth_token") for name in RAY_FILES}
    for resource in everything():
        wanted |= {(found["name"], found["key"]) for found in values(resource, "secretKeyRef")}
        wanted |= {
            (found["secretName"], item["key"]) for found in values(resource, "secret") for item in found["items"]
        }
    assert wanted == made


def values(value: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from values(inner, key)


def test_volumes_and_addresses_exist():
    claims = {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
    services = {(one["metadata"]["name"], port["port"]) for one in of_kind("Service") for port in one["spec"]["ports"]}
    seen = set()
    for resource in everything():
        templates = {claim["metadata"]["name"] for claim in resource.get("spec", {}).get("volumeClaimTemplates", [])}
        for pod in pods(resource):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | templates
            for container in containers(pod):
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
                for variable in container.get("env", []):
                    url = urlsplit(variable.get("value", "").replace("$(POSTGRES_PASSWORD)", "secret"))
                    if url.port:
                        assert (url.hostname, url.port) in services, variable
                        seen.add(url.hostname)
        assert {claim["claimName"] for claim in values(resource, "persistentVolumeClaim")} <= claims
    assert seen == {"mlflow", "postgres", "s3"}


ELSEWHERE = ("kuberay-operator", "kube-dns", "monitoring", "kube-system")  # pods and namespaces outside these files


def test_policies_name_pods_and_ports_that_exist():
    policies = of_kind("NetworkPolicy")
    assert policies[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}  # everything else is denied
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        assert chosen(spec["podSelector"]), f"{name} is for no pod"
        for rule in spec.get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            assert all(ports <= there for there in chosen(spec["podSelector"])), f"{name}: no pod listens there"
            for peer in rule.get("from", []):
                selectors = [peer[key] for key in ("podSelector", "namespaceSelector") if peer.get(key)]
                theirs = [value for one in selectors for value in one.get("matchLabels", {}).values()]
                assert set(theirs) & set(ELSEWHERE) or all(chosen(one) for one in selectors), f"{name}: from no pod"
    open_to_all = [
        (policy["spec"]["podSelector"], rule["ports"])
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        if "from" not in rule
    ]
    assert open_to_all == [({"matchLabels": {"ray.io/serve": "true"}}, [{"protocol": "TCP", "port": 8000}])]


def test_kuberay_creates_every_service_that_the_files_name():
    """common/service.go: ports of a head's services are its container's; two clusters of a name would share one."""
    heads = [one["metadata"]["name"] for one in everything() if one["kind"] in ("RayCluster", "RayService")]
    assert len(heads) == len(set(heads))
    for name in RAY_FILES:
        ((container),) = containers(groups(name)["head"]["template"])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {"gcs-server", "dashboard"} <= set(ports)
        assert ("serve" in ports) == (name == "serve")
    text = "".join(file.read_text() for file in FILES) + (ROOT / "docs" / "guides" / "cluster.md").read_text()
    named = set(re.findall(r"service/([a-z0-9-]+)-(head|serve)-svc", text))
    assert named == {("jobs", "head"), ("emage", "serve")} and {name for name, _ in named} == set(heads)
