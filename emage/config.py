"""Every setting of every program: frozen dataclasses whose defaults are the paper's run; the command line.

One config per pipeline. `parse(TrainConfig, ["demo", "optim.steps=100"])` takes a preset's values and then the
overrides; what comes out is a plain frozen dataclass, and `to_yaml` writes the form that goes to the terminal, to
MLflow and into the checkpoint. Sections in comments are the paper's.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emage.errors import InputError
from emage.presets import PRESETS

Method = Literal["fully_nar", "iterative1", "iterative2", "iterative3", "autoregressive"]
Schedule = Literal["cosine", "linear"]
Order = Literal["confidence", "random", "halton"]
Rank = Literal["none", "likelihood", "clip"]
Dtype = Literal["float32", "bfloat16", "float16"]


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
    batch_size: int = 1024  # global: GPUs x micro-batch x accumulation
    micro_batch_size: int = 16  # per GPU and pass
    lr: float = 4.5e-4
    warmup: float = 0.02  # share of the steps
    beta1: float = 0.9
    beta2: float = 0.96
    weight_decay: float = 4.5e-2
    clip_norm: float = 4.0
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

    output: str = MISSING  # holds `model/` (for use) and Ray Train's storage (for resuming)
    seed: int = 0
    num_workers: int = 1
    use_gpu: bool = True
    cpus_per_worker: int = 4
    zero_stage: Literal[0, 1, 2] = 1
    max_failures: int = 100  # worker or node losses survived
    log_every: int = 50  # steps
    sample_every: int = 5_000
    checkpoint_every: int = 5_000
    keep: int = 3  # checkpoints for resuming
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


@dataclass(frozen=True)
class DownloadConfig:
    """img2dataset, one Ray task a shard."""

    shard_rows: int = 10_000
    image_size: int = 256  # shorter side, then centre crop
    min_image_size: int = 64  # shorter side as downloaded, pixels
    max_image_pixels: int = 100_000_000
    max_bytes: int = 50_000_000
    threads: int = 64  # per shard
    shards_in_flight: int = 0  # 0: one per two cluster CPUs
    timeout_s: float = 10.0  # per picture, whole request
    retries: int = 1
    allow_private_hosts: bool = False  # tests and intranets
    min_success_rate: float = 0.0  # a finished shard under it stops the run (broken DNS looks like 0.01)
    user_agent_token: str = "emage"


@dataclass(frozen=True)
class TokenizeConfig:
    """Caption rules, decoding and the tokenizer's actors, in Ray Data."""

    tokenizer: str = "vqgan-gumbel-f8-8192"
    weights: str | None = None
    batch_size: int = 32
    num_actors: int = 1
    gpus_per_actor: float = 1.0
    caption_rules: bool = True


@dataclass(frozen=True)
class ShuffleConfig:
    """The global shuffle and the layout of the token table."""

    seed: int = 0
    rows_per_file: int = 65_536  # about 128 MB at 1024 tokens
    row_group_rows: int = 4_096


@dataclass(frozen=True)
class IngestConfig:
    """URL table -> token table (pipelines/ingest.py)."""

    stage: Literal["all", "download", "tokenize", "shuffle"] = "all"
    output: str = MISSING  # holds shards/, tokenized/, tokens/ and ingest_report.json
    source: SourceConfig = field(default_factory=SourceConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    shuffle: ShuffleConfig = field(default_factory=ShuffleConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


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
    rank_weights: str | None = None  # CLIP weights for rank=clip
    metrics: tuple[str, ...] = ()  # names in emage.metrics.METRICS
    batch_size: int = 16  # pictures at a time
    num_actors: int = 1
    gpus_per_actor: float = 1.0
    dtype: Dtype = "float32"
    sampling: dict[str, Any] = field(default_factory=dict)  # over the checkpoint's own settings: sampling.steps=8
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class ServeConfig:
    """Checkpoint -> HTTP endpoint on Ray Serve (pipelines/serve.py)."""

    checkpoint: str = MISSING
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"  # auto: cuda where there is one
    dtype: Dtype = "float32"
    num_replicas: int = 1
    gpus_per_replica: float = 1.0
    max_batch_size: int = 8
    batch_wait_s: float = 0.01
    max_queued_requests: int = 128  # per replica, beside the batch being drawn; more are answered 429 at once
    timeout_s: float = 60.0
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


# --- Command line -----------------------------------------------------------------------------------------------------

Config = TypeVar("Config")


def parse(program: type[Config], argv: Sequence[str]) -> Config:
    """`PRESET key=value ...` -> a frozen `program` config. A preset is optional; values win over it, left to right.

    Prints the help and exits with 0 on -h or --help. Raises InputError for an unknown preset or key (with the nearest
    name), a value of the wrong type, or a required key left out.
    """
    if {"-h", "--help"} & set(argv):
        print(usage(program))
        sys.exit(0)
    values = list(argv)
    preset = values.pop(0) if values and "=" not in values[0] else None
    if stray := [v for v in values if "=" not in v]:
        raise InputError(f"{stray[0]!r} is not key=value; the preset comes first and there is only one")
    try:
        overrides = []
        for value in values:
            key, _, text = value.partition("=")
            _check_key(program, key)
            overrides.append(_override(key, text))
        config = OmegaConf.merge(_writable(program), _preset(program, preset), *overrides)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... (--help lists every key)")
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise InputError(f"{key}: {str(error).splitlines()[0]}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{value} is no YAML value: {str(error).splitlines()[0]}") from None


def usage(program: type) -> str:
    """What --help prints: the presets this program knows, then every key with its default, as YAML."""
    presets = [name for name, programs in PRESETS.items() if program.__name__ in programs]
    summary = (program.__doc__ or "").strip().splitlines()[0]
    use = f"usage: PRESET key=value ...\npresets: {', '.join(presets)}" if presets else "usage: key=value ..."
    return f"{summary}\n\n{use}\n\n{OmegaConf.to_yaml(OmegaConf.structured(program))}"


def to_yaml(config: Any) -> str:
    """A config as YAML text, in the order of its fields."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(program: type[Config], text: str) -> Config:
    """The inverse of `to_yaml`. Raises InputError where the text does not describe a `program`."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(_writable(program), OmegaConf.create(text)))  # type: ignore[return-value]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"not a {program.__name__}: {str(error).splitlines()[0]}") from None


def preset(program: type[Config], name: str, **values: Any) -> Config:
    """The `program` config of a named preset, with keyword values (nested dicts) over it. For code, not for people."""
    return OmegaConf.to_object(OmegaConf.merge(_writable(program), _preset(program, name), values))  # type: ignore[return-value]


def nearest(word: str, words: Sequence[str]) -> str:
    """' (did you mean ...?)' for a mistyped name, or ''."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _preset(program: type, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = [preset for preset, programs in PRESETS.items() if program.__name__ in programs]
    if name not in known:
        raise InputError(f"unknown preset {name!r}{nearest(name, known)} (presets: {', '.join(known)})")
    return PRESETS[name][program.__name__]


def _writable(program: type) -> Any:
    """A structured config that merge may fill: OmegaConf makes frozen dataclasses read-only, at every level."""
    config = OmegaConf.structured(program)
    nodes = [config]
    while nodes:
        node = nodes.pop()
        OmegaConf.set_readonly(node, False)
        nodes += [node._get_node(key) for key in node if OmegaConf.is_dict(node._get_node(key))]
    return config


def _override(key: str, text: str) -> Any:
    """One key=value, with the value read as YAML ([a, b], null, 1e-3, true)."""
    return OmegaConf.from_dotlist([f"{key}={text}"])


def _check_key(program: type, key: str) -> None:
    """Raises InputError where `key` (dotted) is no field of the program, naming the nearest one."""
    known = list(_keys(program))
    parents = {name for name in known if key.startswith(name + ".")}
    open_ended = any(_is_open(program, name) for name in parents)
    if key not in known and not open_ended:
        raise InputError(f"unknown key {key!r}{nearest(key, known)} (--help lists every key)")


def _keys(program: Any, prefix: str = "") -> Any:
    for item in fields(program):
        yield prefix + item.name
        factory = item.default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            yield from _keys(factory, f"{prefix}{item.name}.")


def _is_open(program: Any, key: str) -> bool:
    """Whether `key` is a free-form dict, whose entries are checked by whoever uses them."""
    head, _, rest = key.partition(".")
    item = next(item for item in fields(program) if item.name == head)
    return item.default_factory is dict if not rest else _is_open(item.default_factory, rest)
