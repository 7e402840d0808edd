"""The files of cluster/: Ray's own schemas accept them, and the image's pins are the project's."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


def cluster(name: str) -> dict[str, Any]:
    """As `ray up` sees it."""
    config = prepare_config(yaml.safe_load((ROOT / "cluster" / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["aws.yaml", "on-premise.yaml"])
def test_ray_up_accepts_the_file_and_the_dashboard_is_for_its_machine_alone(name: str):
    config = cluster(name)
    (start,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "/shared" in " ".join(config["docker"]["run_options"])
    assert any("auth_token" in path for path in config["file_mounts"])


def test_a_field_that_ray_does_not_know_is_found():
    config = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    config["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(Exception, match="spot"):
        validate_config(prepare_config(config))


def test_the_head_works_for_no_job_and_only_what_can_be_lost_is_spot():
    types = cluster("aws.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == {"download", "gpu"}
    assert types["gpu"]["resources"]["GPU"] == 4 and types["download"]["resources"].get("GPU", 0) == 0
    assert all(kind["max_workers"] > 0 for name, kind in types.items() if name != "head")


def test_the_image_has_the_projects_pins_and_no_root():
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "--constraint constraints.txt '.[pipelines,tracking]'" in text
    uv = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert uv and f"uv=={uv[1]} " in text
    python = re.search(r"FROM python:3\.(\d+)-", text)
    assert python and 10 <= int(python[1]) < 13  # pyproject: >=3.10,<3.13
    assert text.rindex("USER emage") > text.rindex("RUN ")  # what runs is not root
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    wanted = dict(re.findall(r'"(torch|torchvision)==([^"]+)"', (ROOT / "pyproject.toml").read_text()))
    assert pins == wanted == {"torch": "2.10.0", "torchvision": "0.25.0"}  # the newest build with sm_70


def test_what_the_image_copies_is_there_and_not_left_out():
    left_out = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.+)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists() and name not in left_out
