"""Every setting of every program: frozen dataclasses whose defaults are the paper's run.

One config per pipeline. `parse(TrainConfig, ["demo", "optim.steps=100"])` takes a preset's values and then the
overrides; what comes out is a plain frozen dataclass, and `to_yaml` writes the form that goes to the terminal, to
MLflow and into the checkpoint. Sections in comments are the paper's.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from emage.config.cli import from_yaml, nearest, parse, preset, to_yaml, usage
from emage.config.presets import PRESETS

# A config's users find all of it here.
__all__ = ["PRESETS", "from_yaml", "nearest", "parse", "preset", "to_yaml", "usage"]

Method = Literal["fully_nar", "iterative1", "iterative2", "iterative3", "autoregressive"]
Schedule = Literal["cosine", "linear", "square", "cubic", "sqrt"]
Order = Literal["confidence", "random", "halton"]
Rank = Literal["none", "likelihood", "clip"]
Dtype = Literal["float32", "tf32", "bfloat16", "float16"]  # of drawing; tf32: float32 with faster products
Precision = Literal["float32", "tf32", "bfloat16"]  # of training
FidMode = Literal["torch-fidelity", "pytorch-fid", "clean"]
Study = Literal["table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5", "all"]


# --- What is learned -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelConfig:
    """The text encoder and the image decoder (Sec. 4: 12 + 12 layers of width 768)."""

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp: Literal["geglu", "gelu"] = "geglu"
    mlp_ratio: float = 4.0
    positions: Literal["axial", "learned"] = "axial"
    text: Literal["clip_l14", "bert_base", "clip_tiny", "bert_tiny"] = "clip_l14"  # Sec. 4.5
    text_weights: str | None = None  # CLIP's file, BERT's folder; none: published, by name (tiny ones: random)
    text_length: int = 77  # positions; longer captions are cut, and counted
    text_frozen: bool = False  # not trained; states of captions are kept and used again


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the loss asks for. The defaults are the paper's; the options below the line are ours."""

    mask_schedule: Schedule = "linear"  # Sec. 4.7: linear trains better
    first_pass: Literal["sample", "argmax"] = "sample"  # tokens of #2's and #3's first pass
    # Beyond the paper, off by default:
    warm_start: float = 0.0  # share of the steps that are trained as iterative1 first
    ground_truth_share: float = 0.0  # share of the tokens of #2's and #3's first pass replaced by the true ones
    caption_dropout: float = 0.0  # share of captions replaced by "", for classifier-free guidance


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn from a trained model (Sec. 3, Algorithms 1 and 3; Sec. 4.6)."""

    steps: int = 16
    schedule: Schedule = "cosine"
    order: Order = "confidence"
    temperature: float = 1.0  # of the token draw; 0 takes the argmax
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    gumbel: float = 4.5  # position noise, times 1 - t/T at step t: 0 at the last (order=confidence only)
    revise: Literal["argmax", "sample"] = "argmax"  # how #3 rewrites the tokens it already has
    # Beyond the paper, off by default:
    guidance: float = 0.0  # classifier-free guidance, u + s(c - u), trained by caption_dropout; 0 is off
    guidance_schedule: Literal["constant", "linear"] = "constant"  # linear: from 1 (none) up to `guidance` at the end
    remask: float = 0.0  # share of the known tokens, the least probable, masked again at every step but the last


@dataclass(frozen=True)
class OptimConfig:
    """Sec. 4, the paragraph of hyperparameters."""

    steps: int = 500_000
    batch_size: int = 1024  # global, shared out over the GPUs
    micro_batch_size: int = 16  # per GPU and pass
    lr: float = 4.5e-4
    warmup: float = 0.02  # share of the steps
    beta1: float = 0.9
    beta2: float = 0.96
    weight_decay: float = 4.5e-2
    clip_norm: float = 4.0
    max_spike: float = 3.0  # nats of the loss above its running mean: from there on a step is skipped
    ema: float = 0.0  # beyond the paper: decay of the averaged weights that are then kept and drawn from; 0 is off


# --- Where it runs and what is kept -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MLflowConfig:
    """Where runs are recorded. MLFLOW_TRACKING_URI, where it is set, wins over `uri`."""

    uri: str = "sqlite:///runs/mlflow.db"
    artifacts: str = "runs/mlflow-artifacts"  # for experiments created in an sqlite store
    experiment: str = "emage"
    enabled: bool = True


@dataclass(frozen=True)
class DataConfig:
    """A token table, and the tokenizer that must have made it."""

    path: str = MISSING
    tokenizer: str = "vqgan-gumbel-f8-8192"
    tokenizer_weights: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """One training run: its folder, its workers, what it writes and when."""

    output: str = MISSING  # a folder that all nodes share: model/ (for use), checkpoints/ (for resuming)
    seed: int = 0
    num_workers: int = 1
    use_gpu: bool = True
    cpus_per_worker: int = 4
    zero_stage: Literal[0, 1, 2] = 1
    precision: Precision = "float32"  # Sec. 4; tf32 and bfloat16 (autocast) need an A100 or newer
    compile: bool = False  # fuses the decoder's passes with torch.compile: a minute at the start
    recompute: bool = False  # blocks keep their inputs alone: far less memory, a third more arithmetic
    max_failures: int = 100  # worker or node losses survived
    max_skipped: int = 20  # steps without a usable loss; one more ends the run
    log_every: int = 50  # steps
    sample_every: int = 5_000
    checkpoint_every: int = 5_000
    keep: int = 3  # checkpoints for resuming, the newest ones
    keep_every: int = 0  # steps; those at its multiples stay as well. 0: none
    prompts: tuple[str, ...] = (
        "a living area with a television and a table.",  # Figure 5
        "aerial view of the beach at night.",
        "a red bus on a street",
        "a bowl of fruit on a wooden table",
    )


@dataclass(frozen=True)
class TrainConfig:
    """Token table -> checkpoint (pipelines/train.py)."""

    method: Method = "iterative3"
    init: str | None = None  # checkpoint folder whose weights training starts from (fine-tuning)
    dry_run: bool = False  # prints the plan (GPUs, memory, FLOP, days) and ends
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint folder's config.yaml holds: enough to build the network and to draw from it."""

    method: Method = "iterative3"
    vocab_size: int = 8192
    grid: tuple[int, int] = (32, 32)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class SourceConfig:
    """A table of image URLs: parquet, csv, tsv or jsonl, one file or a folder, and what its columns are called."""

    table: str = MISSING
    dataset: str = "web"  # goes into the token table's `dataset` column
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl"] = "auto"  # auto: by the file's ending
    names: tuple[str, ...] = ()  # column names of a file without a header, in order
    url: str = "url"
    caption: tuple[str, ...] = ("caption",)  # several are joined by a space (YFCC: title and description)
    unquote: bool = False  # %-escapes and + in captions (YFCC)
    where: tuple[str, ...] = ()  # conditions on other columns: similarity>=0.3, NSFW==UNLIKELY, WIDTH>=256
    md5: str | None = None  # column with the picture's md5 sum, for select.block_md5


@dataclass(frozen=True)
class SelectConfig:
    """What is not downloaded. Each list is a text file, one entry a line (.gz as well)."""

    block_urls: tuple[str, ...] = ()
    block_hosts: tuple[str, ...] = ()  # and their subdomains
    block_md5: tuple[str, ...] = ()  # against source.md5 before the download, against the bytes after it


@dataclass(frozen=True)
class DownloadConfig:
    """img2dataset, one Ray task a shard."""

    shard_rows: int = 10_000
    image_size: int = 256  # shorter side, then centre crop
    min_image_size: int = 64  # shorter side as downloaded, pixels
    max_image_pixels: int = 100_000_000
    max_bytes: int = 50_000_000
    threads: int = 64  # per shard
    shards_in_flight: int = 0  # 0: one per two CPUs of the nodes that download
    node_resource: str = ""  # only nodes with this custom resource download (cluster/README.md); none: any node
    timeout_s: float = 10.0  # per picture, whole request
    retries: int = 1  # at once, inside a pass
    passes: int = 2  # over all shards; the later ones fetch again what failed for a cause that may pass
    allow_private_hosts: bool = False  # tests and intranets
    min_success_rate: float = 0.1  # of a shard's last 1,000 rows; less stops the run (broken DNS looks like 0.01)
    user_agent_token: str = "emage"


@dataclass(frozen=True)
class TokenizeConfig:
    """Caption rules, decoding and the tokenizer's actors, in Ray Data."""

    tokenizer: str = "vqgan-gumbel-f8-8192"
    weights: str | None = None
    batch_size: int = 32
    num_actors: int = 1
    gpus_per_actor: float = 1.0
    node_resource: str = ""  # only nodes with this custom resource hold actors; none: any with room for one
    caption_rules: bool = True


@dataclass(frozen=True)
class ShuffleConfig:
    """The global shuffle and the layout of the token table."""

    seed: int = 0
    rows_per_file: int = 65_536  # about 128 MB at 1024 tokens
    row_group_rows: int = 4_096
    drop_same_content: bool = False  # of pictures with the same bytes, keep one pair; they are counted in any case


@dataclass(frozen=True)
class IngestConfig:
    """URL table -> token table (pipelines/ingest.py)."""

    stage: Literal["all", "select", "download", "tokenize", "shuffle"] = "all"
    output: str = MISSING  # holds urls/, shards/, tokenized/, tokens/ and the reports
    source: SourceConfig = field(default_factory=SourceConfig)
    more: dict[str, Any] = field(default_factory=dict)  # further tables by data set: more.cc12m.table=cc12m.tsv
    select: SelectConfig = field(default_factory=SelectConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    shuffle: ShuffleConfig = field(default_factory=ShuffleConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class JudgeConfig:
    """What the pictures are compared with, and by which networks."""

    reference: str | None = None  # real pictures: a folder or a .tar
    mode: FidMode = "torch-fidelity"  # how pictures reach Inception; FIDs of two modes do not compare
    inception: str | None = None  # its weights: a file; none: from the cache, or fetched
    clip_model: str = "ViT-B-32-quickgelu"  # of metrics=clip_score: another than the one that ranks
    clip_weights: str | None = None  # a file, or a name that open_clip publishes; none: OpenAI's


@dataclass(frozen=True)
class EvaluateConfig:
    """Checkpoint + captions -> pictures, ranked -> report (pipelines/evaluate.py)."""

    checkpoint: str = MISSING
    captions: str = MISSING  # parquet, csv, tsv, jsonl (column `caption`), COCO's json, or one caption a line in .txt
    output: str = MISSING
    limit: int = 30_000  # captions, drawn by `seed` where the file holds more
    seed: int = 0
    candidates: int = 16  # pictures a caption, the best by `rank` is kept
    rank: Rank = "clip"
    rank_model: str = "ViT-L-14-quickgelu"  # an open_clip model
    rank_weights: str | None = None  # a file, or a name that open_clip publishes; none: OpenAI's
    metrics: tuple[str, ...] = ()  # fid, kid, precision_recall, frechet, clip_score, shapes
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    batch_size: int = 16  # pictures at a time
    num_actors: int = 1
    gpus_per_actor: float = 1.0
    dtype: Dtype = "float32"
    compile: bool = False  # fuses the drawing with torch.compile: a minute at each actor's start
    sampling: dict[str, Any] = field(default_factory=dict)  # over the checkpoint's own settings: sampling.steps=8
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class AccessConfig:
    """Who may use the endpoint."""

    api_key_file: str | None = None  # holds the key that clients must send; none: EMAGE_API_KEY, or this machine alone
    origins: tuple[str, ...] = ()  # of other sites whose pages may use it: https://example.org
    max_upload_mb: float = 20.0  # of a request's body
    safety: str | None = None  # module:function of (prompt, picture or None) -> why it is refused, or None


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
    max_queued: int = 128  # pictures per replica, beside the batch being drawn; more are answered 429 at once
    timeout_s: float = 60.0  # of a request, to its last picture
    num_frontends: int = 1  # processes that speak HTTP; each can keep about one fast GPU busy
    access: AccessConfig = field(default_factory=AccessConfig)
    autoscaling: AutoscalingConfig = field(default_factory=AutoscalingConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class DemoConfig:
    """The whole job on this machine (pipelines/demo.py)."""

    output: str = "runs/demo"
    pictures: int = 6_000  # drawn, served over loopback, ingested by URL
    held_out: int = 300  # captions scored at the end, combinations never seen in training
    seed: int = 0
    method: Method = "iterative3"
    steps: int | None = None  # of training; none: those of the demo preset


@dataclass(frozen=True)
class Table2Config:
    """Pictures -> what each tokenizer loses of them (Sec. 4.1)."""

    pictures: str | None = None  # a folder of jpg, png or .tar, however deep, or one .tar; none: drawn ones, in small
    tokenizers: tuple[str, ...] = ()  # none: the published ones (in small, the shipped one), and those of `weights`
    weights: dict[str, str] = field(default_factory=dict)  # weights.NAME=FILE
    inception: str | None = None  # weights of the Frechet distance's network
    lpips: str | None = None  # torchvision's AlexNet
    fetch: bool = False  # weights that are not here
    limit: int | None = None  # the first pictures by name; none: all
    batch_size: int = 16
    device: str = "auto"  # auto: cuda where there is one
    output: str = ""  # set by the program


@dataclass(frozen=True)
class SmallConfig:
    """scale=small: the world of emage.data.shapes on one machine."""

    pictures: int = 6_000  # drawn to train on
    batch_size: int = 32
    captions: int = 500  # held out, one picture each
    references: int = 2_048  # pictures of held-out scenes that drawn ones are compared with
    cpus: int = 2  # a training's; 1 lets two processes share two cores


@dataclass(frozen=True)
class PaperConfig:
    """scale=paper: a token table, COCO's captions, published weights, a cluster."""

    data: str | None = None  # a token table
    tokenizer_weights: str | None = None
    captions: str | None = None  # captions_val2014.json
    reference: str | None = None  # its pictures, a folder or .tar
    inception: str | None = None  # none: from the cache
    text_weights: str | None = None  # CLIP's; none: by name
    bert_weights: str | None = None
    rank_weights: str | None = None  # CLIP's, which ranks the candidates
    clip_weights: str | None = None  # another CLIP's, which scores the best of them
    num_workers: int = 64
    num_actors: int = 8


@dataclass(frozen=True)
class ReproduceConfig:
    """The paper's tables and figures made again, its column beside ours (pipelines/reproduce.py)."""

    what: Study = "all"
    scale: Literal["small", "paper"] = "small"
    output: str = "runs/reproduce"  # shared by all tables: what two of them need is made once
    seeds: int | None = None  # trainings of each model; none: 3 in small, 1 at paper scale
    steps: int | None = None  # of each training; none: 1,500 in small, the paper's at its scale
    force: bool = False  # makes all that this command needs again
    dry_run: bool = False  # prints what it needs and how long it takes, and ends
    device: str = "auto"  # of latency; auto: cuda where there is one
    small: SmallConfig = field(default_factory=SmallConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)
    table2: Table2Config = field(default_factory=Table2Config)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)
