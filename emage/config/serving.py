"""Settings of the HTTP endpoint."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from emage.config.choices import Dtype
from emage.config.tracking import MLflowConfig


@dataclass(frozen=True)
class AccessConfig:
    """Who may use the endpoint."""

    api_key_file: str | None = None  # holds the key that clients must send; none: EMAGE_API_KEY, or this machine alone
    origins: tuple[str, ...] = ()  # of other sites whose pages may use it: https://example.org
    max_upload_mb: float = 20.0  # of a request's body
    safety: str | None = None  # module:function of (prompt, image or None) -> why it is refused, or None


@dataclass(frozen=True)
class AutoscalingConfig:
    """Replicas that follow the load; `num_replicas` is the least."""

    max_replicas: int = 0  # 0: always num_replicas
    target_ongoing_requests: float = 16.0  # per replica: two full batches, so that the next waits while one is drawn
    upscale_delay_s: float = 10.0  # of more than that before a replica is added; loading a model takes longer still
    downscale_delay_s: float = 300.0  # of less before one is taken away


@dataclass(frozen=True)
class ServeConfig:
    """Checkpoint -> HTTP endpoint on Ray Serve (pipelines/serve.py)."""

    checkpoint: str = MISSING
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"  # auto: cuda where there is one
    dtype: Dtype = "float32"
    compile: bool = False  # fuses the drawing with torch.compile: minutes at a replica's start
    num_replicas: int = 1
    gpus_per_replica: float = 1.0
    max_batch_size: int = 8
    batch_wait_s: float = 0.0  # for company, where the model is free; while it draws, batches fill up anyway
    max_queued: int = 128  # images per replica, beside the batch being drawn; more are answered 429 at once
    timeout_s: float = 60.0  # of a request, to its last image
    num_frontends: int = 1  # processes that speak HTTP; each can keep about one fast GPU busy
    access: AccessConfig = field(default_factory=AccessConfig)
    autoscaling: AutoscalingConfig = field(default_factory=AutoscalingConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)
