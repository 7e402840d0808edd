"""Settings of MLflow and of the check of a machine (emage doctor), and all environment variables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from emage.config.fields import group, setting, shown_value


@dataclass(frozen=True)
class MLflowConfig:
    """The MLflow server or database in which runs are recorded."""

    uri: str = setting(
        "sqlite:///runs/mlflow.db",
        "Tracking server or database; the variable MLFLOW_TRACKING_URI overrides it.",
        is_path=True,
    )
    artifacts: str = setting(
        "runs/mlflow-artifacts", "Folder for the files of runs, if `uri` is an sqlite database.", is_path=True
    )
    experiment: str = setting("emage", "MLflow experiment that the run belongs to.")
    enabled: bool = setting(True, "Record the run.")


@dataclass(frozen=True)
class TrainMLflowConfig(MLflowConfig):
    """The MLflow server or database in which the run and its model are recorded."""

    log_model: bool = setting(True, "Keep a copy of the trained model there, for `mlflow models serve` and the like.")
    register_as: str = setting(
        "", "Name in MLflow's model registry, of which the model becomes the next version; empty: not registered."
    )

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message for a name that MLflow does not take, or if there is no model to register."""
        if re.search("[/:]", self.register_as):
            yield f"{prefix}register_as={shown_value(self.register_as)}: must have neither / nor : in it"
        elif self.register_as and not (self.log_model and self.enabled):
            yield f"{prefix}register_as needs {prefix}log_model=true and {prefix}enabled=true"


@dataclass(frozen=True)
class DoctorConfig:
    """Check this machine, its cluster and its services before the first job (emage doctor)."""

    storage: str = setting("", "Folder or URI that all nodes share, for outputs; empty: not checked.", is_path=True)
    gpus: int = setting(0, "GPUs that the cluster must have.", unit="GPUs", minimum=0)
    tokenizer: str = setting(
        "vqgan-gumbel-f8-8192", "Tokenizer whose weights are looked for.", source="paper, Sec. 4.1"
    )
    mlflow: MLflowConfig = group(MLflowConfig)


class Variable(NamedTuple):
    """An environment variable that the code reads or sets, or that a cluster's nodes need."""

    name: str
    used_by: str
    meaning: str
    default: str = ""  # the value in force if it is not set, or the value that the code sets


_SERVE_LOOPS = "0: run the endpoint's code in the replica's own event loop, which saves a change of thread per request."
_NODES = "set on every node (cluster/Dockerfile)"

READ = (
    Variable("EMAGE_CACHE", "all programs", "Folder for downloaded weights and reference features.", "~/.cache/emage"),
    Variable(
        "EMAGE_TRUST_FIRST_DOWNLOAD",
        "all programs that load a published tokenizer",
        "1: download its weights although no sha256 of them is known; later downloads are compared with the first.",
    ),
    Variable("EMAGE_API_KEY", "serve", "API key that clients must send; access.api_key_file overrides it."),
    Variable(
        "MLFLOW_TRACKING_URI",
        "all programs that record a run",
        "Tracking server; it overrides mlflow.uri.",
        "mlflow.uri",
    ),
    Variable(
        "RAY_ADDRESS",
        "all programs on Ray",
        "Cluster to join (a submitted job has it set); not set: Ray is started on this machine for this program.",
    ),
    Variable("CXX", "generation on a CPU with compile=true", "C++ compiler that torch.compile uses.", "g++ or clang++"),
    Variable(
        "EMAGE_DATA",
        "benchmarks/loader.py, benchmarks/emoji.py and tests",
        "Folder with laion_urls_10k.parquet, real captions, and noto_emoji_128.parquet, emoji with their names.",
    ),
    Variable("LOCAL_RANK", "doctor", "GPU of a process of its NCCL check; torchrun sets it."),
    Variable(
        "MLFLOW_ARTIFACTS_DESTINATION", "cluster/mlflow", "Bucket for the files of runs: s3://NAME; created if missing."
    ),
    Variable("MLFLOW_S3_ENDPOINT_URL", "cluster/mlflow", "Address of S3 storage that is not Amazon's."),
)
READ_BY_LIBRARIES = (
    Variable("HF_HOME", "huggingface_hub", "Cache of the model hub: checkpoints by id, CLIP's and BERT's weights."),
    Variable("HF_HUB_OFFLINE", "huggingface_hub", "1: use only what the cache has."),
    Variable("HF_TOKEN", "huggingface_hub", "Token for private models and for push_to_hub."),
    Variable("HTTPS_PROXY", "downloads of weights", "Proxy. The ingest's image downloads ignore it on purpose."),
    Variable("AWS_ACCESS_KEY_ID", "object storage", "Credentials for s3:// paths."),
    Variable("AWS_SECRET_ACCESS_KEY", "object storage", "Credentials for s3:// paths."),
    Variable("AWS_DEFAULT_REGION", "object storage", "Region of s3:// paths."),
    Variable("RAY_AUTH_MODE", "Ray", f"token: Ray's ports require the cluster's token; {_NODES}."),
    Variable("RAY_AUTH_TOKEN_PATH", "Ray", "File with that token.", "~/.ray/auth_token"),
    Variable("RAY_AUTH_TOKEN", "Ray", "That token itself; a program that cannot write the file sets it."),
)
SET_IF_ABSENT = (
    Variable("DS_ACCELERATOR", "train", "DeepSpeed's device.", "cuda or cpu, by run.use_gpu"),
    Variable(
        "NO_ALBUMENTATIONS_UPDATE",
        "all programs on Ray",
        "Keep img2dataset's albumentations from asking the internet for its newest version.",
        "1",
    ),
    Variable(
        "RAY_DEDUP_LOGS_SKIP_REGEX",
        "all programs on Ray",
        "Lines of Ray's processes that are not shown, since they need no action; Ray's logs keep them.",
        "those of Gloo and of the end of Ray Serve",
    ),
    Variable("RAY_TRAIN_ENABLE_PRINT_PATCH", "train", "Keep Ray Train from printing each line of a worker twice.", "0"),
    Variable(
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
        "all programs on Ray, on this machine",
        "0: do not watch for the preemption of nodes.",
        "0",
    ),
    Variable(
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S",
        "serve, on this machine",
        "Seconds that Ray Serve waits for its HTTP proxy on a busy machine.",
        "60",
    ),
    Variable(
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
        "serve",
        f"Gives the errors of Ray Serve's own proxy the form of the API; {_NODES}.",
        "emage.on_ray.serving.http_proxy:middlewares",
    ),
    Variable("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "serve, on this machine", _SERVE_LOOPS, "0"),
    Variable("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "serve, on this machine", _SERVE_LOOPS, "0"),
    Variable(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "tracking",
        "Retries by MLflow's client: none, because the program's own queue retries.",
        "0",
    ),
    Variable(
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "tracking",
        "Timeout in seconds: so long a start is delayed by a server that is unreachable.",
        "10",
    ),
    Variable("MLFLOW_DISABLE_TELEMETRY", "tracking", "Switch MLflow's telemetry off.", "true"),
    Variable(
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "tracking", "Keep MLflow from printing the addresses of runs.", "true"
    ),
    Variable("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "tracking", "Switch MLflow's progress bars off.", "false"),
)
VARIABLES = {variable.name: variable for variable in (*READ, *READ_BY_LIBRARIES, *SET_IF_ABSENT)}
