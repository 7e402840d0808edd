"""The Serve application: it connects the two deployments and sets their size and limits.

    client ── proxy ── Frontend (HTTP, no model) ── Model (a queue and a model, on a GPU)

Two deployments, so that the page, the errors and the health check answer while a model is loaded or lost, and the
requests of a lost model go to another replica.
"""

from dataclasses import dataclass
from typing import Any

from ray import serve

from emage.config import ServeConfig
from emage.on_ray.serving import checks
from emage.on_ray.serving.deployment import Load, Model, load_checkpoint
from emage.on_ray.serving.frontend import Frontend
from emage.serving.http.app import Options
from emage.serving.http.auth import AccessOptions
from emage.serving.limits import MAX_OPEN_REQUESTS

QUIET_LOGGING = {"log_level": "WARNING"}  # of Serve on the terminal: INFO would be one line per request
SPARE_REQUESTS = (
    64  # at a replica, beyond its queue: the replica rejects them in the API's form, Serve would in its own
)
FRONTEND_CPUS = 0.5
HEALTH_PERIOD_S = 2.0  # between health checks; a replica that fails three of them is replaced


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of an endpoint."""

    config: ServeConfig  # with the absolute path of a checkpoint folder
    key_sha256: str | None  # of the API key; None: clients need none


def read_inputs(config: ServeConfig) -> Inputs:
    """Read the API key, import the safety hook and check the checkpoint. Raises InputError."""
    key = checks.read_key_sha256(config)
    checks.load_safety(config.access.safety)  # to reject a wrong name now; each replica imports it again
    return Inputs(checks.resolve_checkpoint(config), key)


def build(inputs: Inputs, load: Load = load_checkpoint, **options: Any) -> serve.Application:
    """Return the application that `serve run`, `serve deploy` and the driver start.

    Args:
        inputs: Settings and the API key's sha256.
        load: Loads the model in a replica.
        options: Further options of the Model deployment.
    """
    config = inputs.config
    access = AccessOptions(inputs.key_sha256, tuple(config.access.origins), int(config.access.max_upload_mb * 1e6))
    model = Model.options(  # type: ignore[attr-defined]
        **_replica_options(config),
        ray_actor_options={"num_gpus": config.gpus_per_replica},
        user_config={"checkpoint": config.checkpoint},
        max_ongoing_requests=config.max_batch_size + config.max_queued + SPARE_REQUESTS,
        max_queued_requests=MAX_OPEN_REQUESTS,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET_LOGGING,
        **options,
    )
    frontend = Frontend.options(  # type: ignore[attr-defined]
        num_replicas=config.num_frontends,
        ray_actor_options={"num_cpus": FRONTEND_CPUS},
        max_ongoing_requests=MAX_OPEN_REQUESTS,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET_LOGGING,
    )
    return frontend.bind(model.bind(config, load), Options(config.timeout_s, access, tuple(config.access.model_names)))


def count_cpus(config: ServeConfig) -> float:
    """Return the number of logical CPUs that all replicas and frontends need together."""
    return max(config.num_replicas, config.autoscaling.max_replicas) + FRONTEND_CPUS * config.num_frontends


def _replica_options(config: ServeConfig) -> dict[str, Any]:
    """Return options for a fixed number of replicas, or for one that follows the load."""
    scale = config.autoscaling
    if not scale.max_replicas:
        return {"num_replicas": config.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": config.num_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing_requests,
            "upscale_delay_s": scale.upscale_delay_s,
            "downscale_delay_s": scale.downscale_delay_s,
        }
    }
