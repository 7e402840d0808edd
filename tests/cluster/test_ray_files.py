"""The files of cluster/ for Ray: its schemas accept them, commands to submit parse, the image has our pins."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from emage import config
from emage.config import parse

ROOT = Path(__file__).parents[2]
BUILT = ("/.venv/", "/runs/", "/site/")
GUIDE = ROOT / "docs" / "guides" / "cluster.md"


def cluster(name: str) -> dict[str, Any]:
    """Return the cluster config as `ray up` reads it."""
    config = prepare_config(yaml.safe_load((ROOT / "cluster" / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["aws.yaml", "on-premise.yaml"])
def test_ray_up_accepts_the_file_and_the_dashboard_listens_on_127_0_0_1(name: str):
    config = cluster(name)
    (start,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start  # without it no other node is started
    options = config["docker"]["run_options"]
    assert "--env=NVIDIA_VISIBLE_DEVICES=all" in options and "/shared" in " ".join(options)
    assert any("auth_token" in path for path in config["file_mounts"])


def test_rays_schema_rejects_an_unknown_field():
    config = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    config["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(Exception, match="spot"):
        validate_config(prepare_config(config))


def test_the_head_runs_no_job_and_only_replaceable_nodes_are_spot():
    types = cluster("aws.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"download", "gpu"}
    assert types["gpu"]["resources"]["GPU"] == 4 and types["download"]["resources"].get("GPU", 0) == 0
    assert all(kind["max_workers"] > 0 for name, kind in types.items() if name != "head")


def test_machines_in_the_cloud_are_private():
    """Ray makes an open security group and an almighty role where a node type names none (its aws/config.py)."""
    config = cluster("aws.yaml")
    assert config["provider"]["use_internal_ips"] is True
    roles = {}
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        roles[name] = node["IamInstanceProfile"]["Arn"]
        assert node["SecurityGroupIds"] == ["GROUP"] and node["SubnetIds"] == ["SUBNET"]
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert [disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"]] == [True]
    assert {name for name, role in roles.items() if role == "HEAD_ROLE"} == {"head"}
    assert set(roles.values()) == {"HEAD_ROLE", "NODE_ROLE"}
    (mount,) = (line for line in config["initialization_commands"] if "FILESYSTEM" in line)
    assert " -o tls " in mount
    readme = (ROOT / "cluster" / "README.md").read_text()
    assert all(word in readme for word in ("SUBNET", "GROUP", "HEAD_ROLE", "NODE_ROLE"))


def test_node_resources_of_jobs_exist_in_aws_yaml():
    """The resources that docs/guides/cluster.md and serve.yaml name."""
    types = cluster("aws.yaml")["available_node_types"]
    serve = (ROOT / "cluster" / "serve.yaml").read_text()
    kept_to = dict(re.findall(r"(\w+)\.node_resource=(\w+)", GUIDE.read_text()))
    assert kept_to == {"download": "download", "tokenize": "accelerator"}
    for program, name in (("download", "download"), ("tokenize", "gpu")):
        assert kept_to[program] in types[name]["resources"]
    (kept,) = re.findall(r"# resources: \{ (\w+): 0.001 \}", serve)
    assert [name for name, kind in types.items() if kept in kind["resources"]] == ["serve"]


def job_lines() -> list[list[str]]:
    """Return every `python pipelines/...` of docs/guides/cluster.md, split as by a shell."""
    text = GUIDE.read_text().replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"-- (python .*)", text)]


def test_every_submitted_command_parses():
    programs = {
        name.removesuffix("Config").lower(): getattr(config, name) for name in dir(config) if name.endswith("Config")
    }
    (look,), lines = ([line for line in job_lines() if ("-m" in line) is whether] for whether in (True, False))
    assert look[:4] == ["python", "-m", "emage", "doctor"]
    parse(config.DoctorConfig, look[4:])
    assert [line[1] for line in lines] == [
        f"pipelines/{name}.py" for name in ("ingest", "train", "evaluate", "reproduce", "serve")
    ]
    for _, program, *arguments in lines:
        assert (ROOT / program).exists()
        parse(programs[Path(program).stem], arguments)


def test_ray_accepts_the_runtime_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    values = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    RuntimeEnv(**values)  # checks the values, but not the names
    assert set(values) <= RuntimeEnv.known_fields
    for path in values["excludes"]:  # as in .gitignore, relative to the working folder; built folders may not exist
        assert path.startswith("/") and ((ROOT / path[1:]).exists() or path in BUILT)


def test_the_image_has_the_pinned_versions_and_does_not_run_as_root():
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "--constraint constraints.txt '.[pipelines,tracking]'" in text
    uv = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert uv and f"uv=={uv[1]} " in text
    python = re.search(r"FROM python:3\.(\d+)-", text)
    assert python and 11 <= int(python[1]) < 14  # pyproject: >=3.11,<3.14
    assert text.rindex("USER emage") > text.rindex("RUN ")  # containers do not run as root
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    wanted = dict(re.findall(r'"(torch|torchvision)==([^"]+)"', (ROOT / "pyproject.toml").read_text()))
    assert pins == wanted == {"torch": "2.10.0", "torchvision": "0.25.0"}  # the newest build with sm_70


def test_files_that_the_image_copies_exist_and_are_not_ignored():
    left_out = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.+)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists() and name not in left_out
