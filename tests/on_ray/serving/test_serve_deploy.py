"""cluster/serve.yaml as `serve deploy` takes it, with real models: another checkpoint while requests come in."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from programs import free_port, status, wait_until

from emage.on_ray.serving.deployment import NOT_LOADED_TEXT

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]


def committed() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster/serve.yaml").read_text())


def here(config: dict[str, Any], port: int) -> dict[str, Any]:
    """The committed file, for this machine: no GPU, one process of each kind, the shipped model."""
    (application,) = config["applications"]
    model, frontend = application["deployments"]
    config["proxy_location"], config["http_options"]["port"] = "HeadOnly", port
    application["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    application["args"] |= {"checkpoint": "demo", "gpus_per_replica": 0}
    model |= {"user_config": {"checkpoint": "demo"}, "ray_actor_options": {"num_gpus": 0}}
    model["autoscaling_config"]["max_replicas"] = 1
    frontend["num_replicas"] = 1
    return config


def deploy(config: dict[str, Any]) -> None:
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema(**config)
    serve_start(http_options=config["http_options"]).deploy_apps(schema, _blocking=False)


def model(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/v1/models", timeout=10)
    return answer.json()["data"][0] if answer.status_code == 200 else {}


@pytest.fixture
def deployed(ray_cluster: None) -> Iterator[tuple[dict[str, Any], str]]:
    from ray import serve

    port = free_port()
    config, url = here(committed(), port), f"http://127.0.0.1:{port}"
    deploy(config)

    wait_until(lambda: status(f"{url}/health") == 200, 90)
    yield config, url
    serve.shutdown()


@pytest.mark.chaos
def test_another_checkpoint_takes_over_without_a_lost_request(deployed, tiny_model: Path) -> None:
    config, url = deployed
    statuses: list[int] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            body = {"prompt": "a small red circle above a large blue square", "seed": len(statuses)}
            statuses.append(httpx.post(f"{url}/v1/images/generations", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert model(url)["step"] == 12_000
        config["applications"][0]["deployments"][0]["user_config"] = {"checkpoint": str(tiny_model)}
        deploy(config)
        wait_until(lambda: model(url).get("step") == 0, 90)
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 5, 90)

        config["applications"][0]["deployments"][0]["user_config"] = {"checkpoint": "/absent"}
        deploy(config)
        wait_until(lambda: "not_loaded" in model(url).get("reload", {}), 90)
        assert model(url)["step"] == 0
        assert model(url)["reload"] == {"not_loaded": "absent", "reason": NOT_LOADED_TEXT}
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    assert set(statuses) == {200} and len(statuses) > 10


def test_serve_yaml_agrees_with_the_defaults_of_the_code() -> None:
    from emage.config import AutoscalingConfig, ServeConfig

    (application,) = committed()["applications"]
    scale, code = application["deployments"][0]["autoscaling_config"], AutoscalingConfig()
    for name in ("target_ongoing_requests", "upscale_delay_s", "downscale_delay_s"):
        assert scale[name] == getattr(code, name)
    for name in ("timeout_s", "max_batch_size", "max_queued"):
        assert application["args"][name] == getattr(ServeConfig(checkpoint=""), name)
