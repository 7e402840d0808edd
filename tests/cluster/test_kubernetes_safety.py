"""cluster/kubernetes, cluster/mlflow: jobs fit their nodes, repeated values are equal, nothing is open needlessly."""

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_files import (
    FOLDER,
    RAY_FILES,
    ROOT,
    chosen,
    containers,
    every_pod,
    everything,
    groups,
    of_kind,
    pods,
    ray_cluster,
    resources,
    serve_config,
)
from published_schemas import read

from emage.config import EvaluateConfig, IngestConfig, TrainConfig, parse

PROGRAMS = {"ingest": IngestConfig, "train": TrainConfig, "evaluate": EvaluateConfig}


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
