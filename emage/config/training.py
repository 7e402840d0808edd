"""Settings of training, token table -> checkpoint; and of `emage curves`, which plots it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from omegaconf import MISSING

from emage.config.environment import TrainMLflowConfig
from emage.config.fields import MAX_SEED, group, setting
from emage.config.model import CheckpointConfig, Method, ModelConfig, SamplingConfig, Schedule

Precision = Literal["float32", "tf32", "bfloat16"]
_MAX_STEPS = 10**12


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss: masks, the first pass of iterative2 and iterative3, and options beyond the paper."""

    mask_schedule: Schedule = setting(
        "linear", "Distribution of the fraction of tokens that is masked in training.", source="paper, Sec. 4.7"
    )
    mask_order: Literal["random", "halton"] = setting(
        "random",
        "Positions that are masked in training: random ones, or the last of the Halton order, which generation with "
        "sampling.order=halton meets.",
    )
    mask_curriculum: float = setting(
        0.0,
        "Steps at the start in which the tokens that fully_nar masks rise linearly from one to all; 0: always all. The "
        "paper tried such a curriculum (Sec. 4.2), found no improvement and does not state the schedule.",
        unit="fraction of the steps",
        minimum=0,
        maximum=1,
        source="paper, Sec. 4.2",
    )
    first_pass: Literal["sample", "argmax"] = setting(
        "sample", "How the first forward pass of iterative2 and iterative3 chooses tokens from its logits."
    )
    warm_start: float = setting(
        0.0,
        "Steps at the start that are trained as iterative1; 0: none.",
        unit="fraction of the steps",
        minimum=0,
        maximum=1,
    )
    ground_truth_share: float = setting(
        0.0,
        "Tokens of the first forward pass of iterative2 and iterative3 that are replaced by the true ones.",
        unit="fraction of the tokens",
        minimum=0,
        maximum=1,
    )
    groups: tuple[int, ...] = setting(
        (8, 16, 32),
        "Numbers of groups of tokens that parallel_autoregressive learns to generate one after another; each image "
        "gets one of them at random. A model is best in these numbers of decoding steps.",
        unit="groups",
        minimum=1,
        not_empty=True,
    )
    group_schedule: Schedule = setting(
        "cubic",
        "Sizes of these groups, from the first to the last; the trained model generates with it, in place of "
        "sampling.schedule.",
    )
    random_order_share: float = setting(
        0.0,
        "Images whose groups parallel_autoregressive splits from a random order, not from the Halton order.",
        unit="fraction of the images",
        minimum=0,
        maximum=1,
    )
    given_share: float = setting(
        0.0,
        "Images of which parallel_autoregressive is given random tokens, as in inpainting.",
        unit="fraction of the images",
        minimum=0,
        maximum=1,
    )
    caption_dropout: float = setting(
        0.0,
        'Captions that are replaced by "", which sampling.guidance needs.',
        unit="fraction of the captions",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its learning rate and the batch (paper, Sec. 4)."""

    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "Optimizer. muon: Muon for the matrices of hidden layers, AdamW for all other parameters.",
        source="paper, Sec. 4",
    )
    steps: int = setting(
        500_000, "Optimizer steps of the whole training.", unit="steps", minimum=1, source="paper, Sec. 4"
    )
    batch_size: int = setting(
        1024, "Images per step, over all workers together.", unit="images", minimum=1, source="paper, Sec. 4"
    )
    micro_batch_size: int = setting(
        16,
        "Images that one worker puts through the network at a time; lower it if a GPU runs out of memory.",
        unit="images",
        minimum=1,
    )
    lr: float = setting(
        4.5e-4,
        "Highest learning rate, reached after the warm-up and then lowered to 0 along a cosine.",
        above=0,
        maximum=1e30,
        source="paper, Sec. 4",
    )
    warmup: float = setting(
        0.02,
        "Steps in which the learning rate rises linearly.",
        unit="fraction of the steps",
        minimum=0,
        maximum=1,
        source="paper, Sec. 4",
    )
    beta1: float = setting(
        0.9, "AdamW's decay of the mean of gradients.", minimum=0, maximum=0.999999, source="paper, Sec. 4"
    )
    beta2: float = setting(
        0.96, "AdamW's decay of the mean of squared gradients.", minimum=0, maximum=0.999999, source="paper, Sec. 4"
    )
    weight_decay: float = setting(4.5e-2, "Weight decay of matrices.", minimum=0, maximum=1e6, source="paper, Sec. 4")
    clip_norm: float = setting(
        4.0, "Norm to which the gradient is clipped.", minimum=1e-6, maximum=1e30, source="paper, Sec. 4"
    )
    max_spike: float = setting(
        3.0,
        "A step whose loss is this much above its running mean is skipped.",
        unit="nats per token",
        minimum=1e-6,
        maximum=1e30,
    )
    ema: float = setting(
        0.0,
        "Decay of averaged weights (EMA), which are then saved, and generate the sample images; 0: off.",
        minimum=0,
        maximum=0.999999,
    )


@dataclass(frozen=True)
class DataConfig:
    """The token table, and the tokenizer that it was made with."""

    path: str = setting(
        MISSING, "Token table: a folder of parquet files, or one file, local or on object storage.", is_path=True
    )
    rows: int | None = setting(
        None,
        "Rows of a token table that is not made yet, for dry_run=true: `path` is not read, and vocabulary and grid are "
        "those of `tokenizer`. null: the table's own.",
        unit="rows",
        minimum=1,
        maximum=_MAX_STEPS,
    )
    tokenizer: str = setting(
        "vqgan-gumbel-f8-8192", "Name of the tokenizer (emage.tokenizers.TOKENIZERS).", source="paper, Sec. 4.1"
    )
    tokenizer_weights: str | None = setting(
        None,
        "Weights of the tokenizer: a .ckpt or .safetensors file. null: from the cache, or downloaded by name.",
        is_path=True,
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run: its folder, its workers, what it writes and when."""

    output: str = setting(
        MISSING,
        "Folder for the results: model/ (for use), checkpoints/ (for resuming), steps.jsonl, samples/.",
        is_folder=True,
    )
    seed: int = setting(0, "Seed of the initial weights, the order of rows, and masks.", minimum=0, maximum=MAX_SEED)
    num_workers: int = setting(1, "Workers of Ray Train, one per GPU.", unit="workers", minimum=1)
    use_gpu: bool = setting(True, "Train on GPUs; false: on CPUs.")
    cpus_per_worker: int = setting(4, "CPUs that Ray reserves for each worker.", unit="CPUs", minimum=1)
    zero_stage: Literal[0, 1, 2] = setting(
        1, "DeepSpeed's ZeRO stage: 1 divides the optimizer's state over the workers, 2 the gradients too."
    )
    precision: Precision = setting(
        "float32",
        "Arithmetic of the network; tf32 and bfloat16 (autocast) need an A100 or newer.",
        source="paper, Sec. 4",
    )
    compile: bool = setting(False, "Compile the decoder with torch.compile, which takes about a minute at the start.")
    recompute: bool = setting(
        False, "Gradient checkpointing: store the inputs of blocks only; far less memory, a third more arithmetic."
    )
    max_failures: int = setting(
        100,
        "Failures (a lost worker or node) after which training still resumes by itself.",
        minimum=0,
        maximum=_MAX_STEPS,
    )
    max_skipped: int = setting(
        20,
        "Skipped steps (see optim.max_spike) that are tolerated; with more the run ends with an error.",
        unit="steps",
        minimum=0,
        maximum=_MAX_STEPS,
    )
    log_every: int = setting(50, "Steps between two records in MLflow.", unit="steps", minimum=1)
    sample_every: int = setting(5_000, "Steps between two sets of sample images.", unit="steps", minimum=1)
    checkpoint_every: int = setting(5_000, "Steps between two checkpoints for resuming.", unit="steps", minimum=1)
    keep: int = setting(3, "Checkpoints for resuming that are kept, the newest ones.", unit="checkpoints", minimum=1)
    keep_every: int = setting(
        0, "Also keep the checkpoints at multiples of this step; 0: none.", unit="steps", minimum=0, maximum=_MAX_STEPS
    )
    prompts: tuple[str, ...] = setting(
        (),
        "Prompts of the sample images; the first two are also shown step by step. Empty: captions of the token table.",
    )


@dataclass(frozen=True)
class TrainConfig:
    """Token table -> checkpoint (pipelines/train.py)."""

    method: Method = setting("iterative3", "Training and decoding method.", source="paper, Sec. 4.4")
    init: str | None = setting(
        None,
        "Checkpoint whose weights training starts from (fine-tuning): a folder, `demo` or a hub id. null: none.",
        is_path=True,
    )
    dry_run: bool = setting(False, "Print the plan (GPUs, memory, FLOP, days) and end.")
    data: DataConfig = group(DataConfig)
    model: ModelConfig = group(ModelConfig)
    objective: ObjectiveConfig = group(ObjectiveConfig)
    optim: OptimConfig = group(OptimConfig)
    sampling: SamplingConfig = group(SamplingConfig)
    run: RunConfig = group(RunConfig)
    mlflow: TrainMLflowConfig = group(TrainMLflowConfig)

    def checkpoint_config(self, vocab_size: int, grid: tuple[int, int]) -> CheckpointConfig:
        """Return the config.yaml of the trained model, given its tokenizer's vocabulary and grid."""
        sampling = replace(self.sampling, schedule=self._schedule())
        return CheckpointConfig(self.method, vocab_size, grid, self.model, sampling)

    def _schedule(self) -> Schedule:
        by_groups = self.method == "parallel_autoregressive"
        return self.objective.group_schedule if by_groups else self.sampling.schedule

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message for rows by number in a run, two schedules, Muon with ZeRO, or a micro-batch without a row.

        Every worker goes through as many micro-batches as the one with most rows; the one with fewest has
        batch_size // num_workers rows for them.
        """
        if self.data.rows is not None and not self.dry_run:
            yield (
                f"{prefix}data.rows={self.data.rows} is for a plan ({prefix}dry_run=true): a run counts the rows "
                "of its table"
            )
        if self.sampling.schedule not in (SamplingConfig().schedule, self._schedule()):
            yield (
                f"{prefix}sampling.schedule={self.sampling.schedule}: parallel_autoregressive generates in the groups "
                f"that it learned; set {prefix}objective.group_schedule (it is {self.objective.group_schedule})"
            )
        if self.optim.optimizer == "muon" and self.run.zero_stage:
            yield (
                f"{prefix}optim.optimizer=muon needs {prefix}run.zero_stage=0 (it is {self.run.zero_stage}): ZeRO "
                "divides the matrices that Muon needs whole"
            )
        batch, workers, most = self.optim.batch_size, self.run.num_workers, self.optim.micro_batch_size
        micro_batches = math.ceil(math.ceil(batch / workers) / most)
        if batch // workers < micro_batches:
            yield (
                f"{prefix}optim.batch_size={batch} leaves some micro-batches of {prefix}run.num_workers={workers} "
                f"without a row: use fewer workers, or a larger {prefix}optim.micro_batch_size (it is {most})"
            )


@dataclass(frozen=True)
class CurvesConfig:
    """Training runs -> one image of their learning curves (emage curves RUN [RUN ...])."""

    output: str = setting("curves.png", "File for the image: .png, .jpg, .webp, .pdf or .svg.", is_path=True)
    title: str | None = setting(None, "Title above the curves.")
