"""Settings of the demo, and of the paper's tables and figures."""

from dataclasses import dataclass, field
from typing import Literal

from emage.config.choices import Method, Study
from emage.config.tracking import MLflowConfig


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
    """Images -> what each tokenizer loses of them (Sec. 4.1)."""

    pictures: str | None = None  # a folder of jpg, png or .tar, however deep, or one .tar; none: drawn ones, in small
    tokenizers: tuple[str, ...] = ()  # none: the published ones (in small, the shipped one), and those of `weights`
    weights: dict[str, str] = field(default_factory=dict)  # weights.NAME=FILE
    inception: str | None = None  # weights of the Frechet distance's network
    lpips: str | None = None  # torchvision's AlexNet
    fetch: bool = False  # weights that are not here
    limit: int | None = None  # the first images by name; none: all
    batch_size: int = 16
    device: str = "auto"  # auto: cuda where there is one
    output: str = ""  # set by the program


@dataclass(frozen=True)
class SmallConfig:
    """scale=small: the world of emage.data.shapes on one machine."""

    pictures: int = 6_000  # drawn to train on
    batch_size: int = 32
    captions: int = 500  # held out, one image each
    references: int = 2_048  # images of held-out scenes that drawn ones are compared with
    cpus: int = 2  # a training's; 1 lets two processes share two cores


@dataclass(frozen=True)
class PaperConfig:
    """scale=paper: a token table, COCO's captions, published weights, a cluster."""

    data: str | None = None  # a token table
    tokenizer_weights: str | None = None
    captions: str | None = None  # captions_val2014.json
    reference: str | None = None  # its images, a folder or .tar
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
