"""Settings of the HTTP endpoint."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from emage.config.environment import MLflowConfig
from emage.config.fields import group, setting
from emage.config.model import Dtype

MAX_UPLOAD_MB = 100.0  # Serve's proxy, which all endpoints of a cluster share, reads no more of a form


@dataclass(frozen=True)
class AccessConfig:
    """Access to the endpoint: API key, web sites, size of requests, safety hook."""

    api_key_file: str | None = setting(
        None,
        "File with the API key that clients must send. null: the variable EMAGE_API_KEY; without a key only this "
        "machine is served.",
        is_path=True,
    )
    origins: tuple[str, ...] = setting(
        (), "Other web sites whose pages may call the endpoint (CORS), for example https://example.org."
    )
    model_names: tuple[str, ...] = setting(
        ("emage",), "Names that a request's `model` may have: the served name, then aliases.", not_empty=True
    )
    max_upload_mb: float = setting(
        20.0, "Largest body of an edit, with its images.", unit="MB", above=0, maximum=MAX_UPLOAD_MB
    )
    safety: str | None = setting(
        None,
        "Hook module:function: takes a prompt and an image or None, returns the reason for a rejection, or None.",
    )


@dataclass(frozen=True)
class AutoscalingConfig:
    """Autoscaling: replicas are added and removed with the load; num_replicas is the minimum."""

    max_replicas: int = setting(0, "Largest number of replicas; 0: always num_replicas.", unit="replicas", minimum=0)
    target_ongoing_requests: float = setting(
        16.0,
        "Requests per replica above which replicas are added: two full batches, of which one waits.",
        unit="requests",
        above=0,
    )
    upscale_delay_s: float = setting(
        10.0, "Time above the target before a replica is added.", unit="seconds", minimum=0
    )
    downscale_delay_s: float = setting(
        300.0, "Time below the target before a replica is removed.", unit="seconds", minimum=0
    )


@dataclass(frozen=True)
class ServeConfig:
    """Checkpoint -> HTTP endpoint on Ray Serve (pipelines/serve.py)."""

    checkpoint: str = setting(MISSING, "Checkpoint: a folder, `demo`, or a hub id.", is_path=True)
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for other machines, which needs an API key.")
    port: int = setting(8000, "Port to listen on.", minimum=1, maximum=65_535)
    device: str = setting("auto", "cpu, cuda, cuda:N, or auto: cuda if available.")
    dtype: Dtype = setting("float32", "Arithmetic of the network.")
    compile: bool = setting(False, "Compile the network with torch.compile, which takes minutes at a replica's start.")
    num_replicas: int = setting(1, "Replicas, each with a model.", unit="replicas", minimum=1)
    gpus_per_replica: float = setting(1.0, "GPUs per replica; 0: on CPUs.", unit="GPUs", minimum=0)
    max_batch_size: int = setting(8, "Images generated together.", unit="images", minimum=1)
    batch_wait_s: float = setting(
        0.0,
        "Wait for more images before each batch for which fewer than `max_batch_size` are queued; 0: none.",
        unit="seconds",
        minimum=0,
    )
    max_queued: int = setting(
        128,
        "Images that may wait per replica, in addition to the batch that runs; more are answered with 429.",
        unit="images",
        minimum=0,
    )
    timeout_s: float = setting(60.0, "Time limit of a request, until its last image.", unit="seconds", above=0)
    num_frontends: int = setting(
        1, "HTTP processes; one of them can keep about one fast GPU busy.", unit="processes", minimum=1
    )
    access: AccessConfig = group(AccessConfig)
    autoscaling: AutoscalingConfig = group(AutoscalingConfig)
    mlflow: MLflowConfig = group(MLflowConfig)

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message if the autoscaler's maximum is below its minimum."""
        if 0 < self.autoscaling.max_replicas < self.num_replicas:
            yield (
                f"{prefix}autoscaling.max_replicas={self.autoscaling.max_replicas}: must be 0 (off) or at least "
                f"{prefix}num_replicas={self.num_replicas}"
            )
