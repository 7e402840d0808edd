"""What the tests of cluster/kubernetes read: resources, pods and containers of its files, and the published schemas."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from published_schemas import read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
RAY_FILES = ("cluster", "ingest", "train", "evaluate", "serve")
KUBERNETES = ("1.31", "1.37")  # oldest and newest that the files are checked against
Resource = dict[str, Any]


@functools.cache
def resources(file: Path) -> list[Resource]:
    return list(yaml.safe_load_all(file.read_text()))


def everything() -> list[Resource]:
    return [resource for file in FILES for resource in resources(file)]


def of_kind(kind: str) -> list[Resource]:
    return [resource for resource in everything() if resource["kind"] == kind]


def ray_cluster(name: str) -> Resource:
    """Return the RayClusterSpec in a file."""
    (resource,) = resources(FOLDER / f"{name}.yaml")
    spec = resource["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups(name: str) -> dict[str, Resource]:
    """Return the head and the worker groups by name."""
    spec = ray_cluster(name)
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pods(resource: Resource) -> Iterator[Resource]:
    """Yield every pod template in a resource, at any depth."""
    for key, value in resource.items():
        if key == "template" and "containers" in value.get("spec", {}):
            yield value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from pods(inner)


def every_pod() -> list[Resource]:
    return [pod for resource in everything() for pod in pods(resource)]


def containers(pod: Resource) -> list[Resource]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def check(resource: Resource, kubernetes: str) -> None:
    """Raise ValidationError if a resource, or a pod in it, violates its schema. Unknown fields are errors."""
    schema = read("kuberay").get(f"{resource['apiVersion']} {resource['kind']}")
    if schema is None:
        kubernetes_validate.validate(resource, kubernetes, strict=True)
    else:
        jsonschema.Draft202012Validator(schema).validate(resource)
    for pod in pods(resource):  # more exactly than KubeRay's schema does
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | pod.get("metadata", {})}
        kubernetes_validate.validate(whole | {"spec": pod["spec"]}, kubernetes, strict=True)


def serve_config() -> dict[str, Any]:
    (service,) = of_kind("RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def pod_labels() -> list[tuple[dict[str, str], set[int]]]:
    """Return labels and ports of every pod of the files; Ray's as KubeRay 1.7 labels them (pod.go, labelPod)."""
    found = []
    for resource in everything():
        for pod in pods(resource):
            ports = {port["containerPort"] for one in containers(pod) for port in one.get("ports", [])}
            found.append((pod.get("metadata", {}).get("labels", {}), ports))
    for name in RAY_FILES:
        (resource,) = resources(FOLDER / f"{name}.yaml")
        for group, spec in groups(name).items():
            is_head, serves = group == "head", resource["kind"] == "RayService"
            labels = {
                "ray.io/is-ray-node": "yes",
                "ray.io/node-type": "head" if is_head else "worker",
                "ray.io/group": "headgroup" if is_head else group,
                **({"ray.io/serve": "false" if is_head else "true"} if serves else {}),
                **spec["template"].get("metadata", {}).get("labels", {}),
            }
            (container,) = containers(spec["template"])
            # Not named in the files: Prometheus' port is KubeRay's, 52365 the agent's, which probes ask.
            found.append((labels, {port["containerPort"] for port in container["ports"]} | {52365}))
    return found


def chosen(selector: dict[str, Any]) -> list[set[int]]:
    """Return the ports of each pod that a policy's selector matches."""
    rules = [(key, {value}) for key, value in selector.get("matchLabels", {}).items()]
    rules += [(rule["key"], set(rule["values"])) for rule in selector.get("matchExpressions", [])]
    return [ports for labels, ports in pod_labels() if all(labels.get(key) in wanted for key, wanted in rules)]
