"""Settings of training: token table -> checkpoint."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from emage.config.choices import Method, Precision, Schedule
from emage.config.model import ModelConfig, SamplingConfig
from emage.config.tracking import MLflowConfig


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
