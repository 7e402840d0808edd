"""cluster/kubernetes: published schemas accept every file, named objects exist, and repeated values are equal."""

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from published_schemas import read

from emage.config import EvaluateConfig, IngestConfig, ServeConfig, TrainConfig, parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
RAY_FILES = ("cluster", "ingest", "train", "evaluate", "serve")
KUBERNETES = ("1.31", "1.37")  # oldest and newest that the files are checked against
PROGRAMS = {"ingest": IngestConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
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


def serve_config() -> dict[str, Any]:
    (service,) = of_kind("RayService")
    return yaml.safe_load(service["spec"]["serveConfigV2"])


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


# --- Jobs, nodes, safety ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_job_fits_on_its_nodes(name: str):
    (job,) = resources(FOLDER / f"{name}.yaml")
    python, program, *arguments = job["spec"]["entrypoint"].split()
    assert (python, program) == ("python", f"/opt/emage/pipelines/{name}.py") and (ROOT / program[11:]).exists()
    config: Any = parse(PROGRAMS[name], arguments)
    assert job["spec"]["jobId"] == job["metadata"]["name"] == name  # applying it twice starts one job
    gpu = groups(name)["gpu"]
    (container,) = gpu["template"]["spec"]["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    match config:
        case TrainConfig():
            assert config.run.num_workers == gpu["minReplicas"] * gpus
            assert gpus * config.run.cpus_per_worker <= int(container["resources"]["requests"]["cpu"])
            made = f"{config.run.output}/model"  # the path that is served and evaluated
            assert serve_config()["applications"][0]["args"]["checkpoint"] == made
            assert f"checkpoint={made}" in (FOLDER / "evaluate.yaml").read_text()
        case EvaluateConfig():
            assert config.num_actors * config.gpus_per_actor == gpu["minReplicas"] * gpus
        case IngestConfig():
            assert config.tokenize.num_actors * config.tokenize.gpus_per_actor == gpu["maxReplicas"] * gpus
            download = groups(name)["download"]
            assert config.download.node_resource in download["resources"]
            (container,) = download["template"]["spec"]["containers"]
            cpus = int(container["resources"]["limits"]["cpu"])
            assert config.download.shards_in_flight == download["maxReplicas"] * cpus  # a task is one CPU


def test_five_files_define_the_same_nodes():
    for name in RAY_FILES[1:]:
        assert ray_cluster(name)["rayVersion"] == ray_cluster("cluster")["rayVersion"]
        assert ray_cluster(name)["authOptions"] == ray_cluster("cluster")["authOptions"]
    for name in ("ingest", "train", "evaluate"):
        for group, spec in groups(name).items():
            ours, theirs = (copy.deepcopy(found["template"]["spec"]) for found in (spec, groups("cluster")[group]))
            for found in (ours, theirs):  # without an autoscaler a head has none
                found["volumes"] = [volume for volume in found["volumes"] if volume["name"] != "api-token"]
            assert ours == theirs, (name, group)


def test_no_container_but_the_autoscaler_has_a_kubernetes_token():
    for pod in every_pod():
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in containers(pod):
            assert "api-token" not in {mount["name"] for mount in container.get("volumeMounts", [])}
    for name in RAY_FILES:
        cluster = ray_cluster(name)
        mounts = [mount["name"] for mount in cluster.get("autoscalerOptions", {}).get("volumeMounts", [])]
        assert ("api-token" in mounts) == cluster.get("enableInTreeAutoscaling", False), name
        for group, spec in groups(name).items():
            volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
            assert ("api-token" in volumes) == ("api-token" in mounts and group == "head"), (name, group)
            assert group != "head" or {*mounts} <= volumes


def test_containers_write_only_into_volumes_of_a_bounded_size():
    for pod in every_pod():
        mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"ephemeral-storage"} <= set(container["resources"]["requests"]) & set(
                container["resources"]["limits"]
            )
        for volume in pod["spec"].get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], volume
            assert volume["name"] in {*mounted, "api-token"}
    for name in RAY_FILES:
        for group in groups(name).values():
            (container,) = containers(group["template"])
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/emage", "/shared"} <= paths  # Ray's sessions, caches, outputs
        options = ray_cluster(name).get("autoscalerOptions")
        assert options is None or options["securityContext"]["readOnlyRootFilesystem"] is True


def test_every_pod_may_reach_only_what_a_policy_names():
    """By the ports of the selected pods, which tell the groups apart: 8265 is a head's, 5000 MLflow's."""
    found = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    out = {name: spec for name, spec in found.items() if spec.get("egress")}
    assert {name for name, spec in out.items() if any(8265 in ports for ports in chosen(spec["podSelector"]))} == {
        "heads-to-the-kubernetes-api",
        "download-nodes-and-heads-to-the-web",
    }
    assert [name for name, spec in out.items() if {5000} in chosen(spec["podSelector"])] == ["mlflow-to-its-stores"]
    stores = out["mlflow-to-its-stores"]["egress"]
    assert {port["port"] for rule in stores for port in rule["ports"]} == {5432, 7070, 53}
    assert all("ipBlock" not in peer for rule in stores[:2] for peer in rule["to"])


def test_ray_and_the_image_have_the_pinned_versions():
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned and {ray_cluster(name)["rayVersion"] for name in RAY_FILES} == {pinned[1]}
    for name in RAY_FILES:
        images = {container["image"] for group in groups(name).values() for container in containers(group["template"])}
        assert images == {"REGISTRY/emage:VERSION"}


def test_no_pod_runs_as_root_and_each_has_resource_requests():
    count = 0
    for resource in everything():
        if resource["metadata"]["name"] == "shared-for-user-1000":
            continue  # it changes the owner of a new file system to that user
        for pod in pods(resource):
            security = pod["spec"]["securityContext"]
            assert security["runAsNonRoot"] and security["runAsUser"] and security["seccompProfile"]
            for container in containers(pod):
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert {"cpu", "memory"} <= set(container["resources"]["requests"])
                assert "memory" in container["resources"]["limits"]
                count += 1
    assert count == 17
    for kind in ("Deployment", "StatefulSet"):  # Ray's nodes get their probes from KubeRay
        for resource in of_kind(kind):
            for pod in pods(resource):
                assert all({"readinessProbe", "livenessProbe"} <= set(one) for one in pod["spec"]["containers"])


# --- The same server by compose ---------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "mlflow" / "compose.yaml").read_text())


def test_the_compose_file_is_valid():
    validator = jsonschema.Draft7Validator(read("compose"))
    validator.validate(compose())
    wrong = compose()
    wrong["services"]["mlflow"]["restarts"] = "always"
    with pytest.raises(jsonschema.ValidationError, match="restarts"):
        validator.validate(wrong)
    variables = set(re.findall(r"\$\{(\w+)", json.dumps(compose())))
    example = (ROOT / "cluster" / "mlflow" / "example.env").read_text()
    assert variables == set(re.findall(r"^(?:# )?(\w+)=", example, re.M))


def test_compose_runs_the_same_as_kubernetes():
    services = compose()["services"]
    (pod,) = (pod for resource in of_kind("Deployment") for pod in pods(resource))
    (bucket,), (server,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    stateful = {
        found["metadata"]["name"]: next(pods(found))["spec"]["containers"][0] for found in of_kind("StatefulSet")
    }
    for name, container in {"bucket": bucket, "mlflow": server, **stateful}.items():
        assert services[name]["image"] == container["image"]
        assert services[name].get("command") == container.get("command")
        theirs = {variable["name"]: variable.get("value") for variable in container["env"]}
        for variable, value in services[name]["environment"].items():
            if "${" not in value:
                assert theirs[variable] == value
            assert variable in theirs
    for service in services.values():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"] and "/tmp" in service["tmpfs"]
    assert services["postgres"]["networks"] == services["s3"]["networks"] == ["inside"]
    assert compose()["networks"]["inside"] == {"internal": True}
    assert services["mlflow"]["ports"] == ["${LISTEN:-127.0.0.1}:5000:5000"]
