"""Settings of the demo, and of the paper's tables and figures."""

from dataclasses import asdict, dataclass
from typing import Literal

from emage.config.environment import MLflowConfig, TrainMLflowConfig
from emage.config.fields import MAX_SEED, group, setting
from emage.config.model import Method

StudyName = Literal["table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5", "methods", "all"]


@dataclass(frozen=True)
class DemoConfig:
    """The whole job on this machine (pipelines/demo.py)."""

    output: str = setting("runs/demo", "Folder for everything that the demo makes.", is_folder=True)
    pictures: int = setting(
        6_000, "Images that are rendered, served over loopback and ingested by URL.", unit="images", minimum=1
    )
    held_out: int = setting(
        300, "Captions scored at the end, of combinations that training never sees.", unit="captions", minimum=1
    )
    seed: int = setting(0, "Seed of images, training and evaluation.", minimum=0, maximum=MAX_SEED)
    method: Method = setting("parallel_autoregressive", "Training and decoding method; iterative3 is the paper's.")
    steps: int | None = setting(None, "Steps of training. null: those of the demo preset.", unit="steps", minimum=1)


@dataclass(frozen=True)
class Table2Config:
    """Images -> how well each tokenizer reconstructs them (paper, Sec. 4.1)."""

    pictures: str | None = setting(
        None,
        "Images: a folder of images, .tar or .parquet files, or one such file. null: rendered (scale=small only).",
        is_path=True,
    )
    tokenizers: tuple[str, ...] = setting(
        (), "Tokenizers by name. Empty: the published ones (scale=small: the shipped one) and those of `weights`."
    )
    weights: dict[str, str] = setting(dict, "Weights of tokenizers, by name: table2.weights.NAME=FILE.", is_path=True)
    inception: str | None = setting(None, "Weights of Inception, a file. null: from the cache.", is_path=True)
    lpips: str | None = setting(None, "Weights of torchvision's AlexNet, a file. null: from the cache.", is_path=True)
    fetch: bool = setting(False, "Download weights that are missing.")
    limit: int | None = setting(None, "Use the first images by name. null: all.", unit="images", minimum=1)
    batch_size: int = setting(16, "Images at a time.", unit="images", minimum=1)
    device: str = setting("auto", "cpu, cuda, cuda:N, or auto: cuda if available.")
    output: str = setting("", "Set by the program; a value given here is replaced.")


@dataclass(frozen=True)
class SmallConfig:
    """scale=small: the toy world of emage.data.shapes, on one machine."""

    pictures: int = setting(20_000, "Images rendered to train on.", unit="images", minimum=1)
    batch_size: int = setting(32, "Images per training step.", unit="images", minimum=1)
    captions: int = setting(500, "Held-out captions, one image each.", unit="captions", minimum=1)
    references: int = setting(
        2_048, "Rendered images of held-out scenes that generated ones are compared with.", unit="images", minimum=1
    )
    cpus: int = setting(2, "CPUs of a training; 1 lets two processes share two cores.", unit="CPUs", minimum=1)


@dataclass(frozen=True)
class PaperConfig:
    """scale=paper: a token table, COCO's captions, published weights, a cluster."""

    data: str | None = setting(None, "Token table.", is_path=True)
    tokenizer_weights: str | None = setting(None, "Weights of the tokenizer, a file. null: by name.", is_path=True)
    captions: str | None = setting(None, "Captions: COCO's captions_val2014.json.", is_path=True)
    reference: str | None = setting(None, "The images of these captions: a folder, .tar or .parquet.", is_path=True)
    inception: str | None = setting(None, "Weights of Inception, a file. null: from the cache.", is_path=True)
    text_weights: str | None = setting(None, "Weights of CLIP's text encoder, a file. null: by name.", is_path=True)
    bert_weights: str | None = setting(None, "Weights of BERT, a folder. null: by name.", is_path=True)
    rank_weights: str | None = setting(
        None, "Weights of the CLIP that ranks the candidates. null: by name.", is_path=True
    )
    clip_weights: str | None = setting(
        None, "Weights of the other CLIP, which scores the best candidates. null: by name.", is_path=True
    )
    num_workers: int = setting(64, "Workers of a training, one per GPU.", unit="workers", minimum=1)
    num_actors: int = setting(8, "Actors of an evaluation, one per GPU.", unit="actors", minimum=1)


@dataclass(frozen=True)
class ReproduceConfig:
    """The paper's tables and figures, our numbers next to the paper's (pipelines/reproduce.py)."""

    what: StudyName = setting("all", "Table or figure of the paper, or methods: the comparison of six methods (ours).")
    scale: Literal["small", "paper"] = setting("small", "small: a toy world on one machine. paper: the paper's size.")
    output: str = setting(
        "runs/reproduce",
        "Folder shared by all tables and figures: an experiment that several of them need is run once.",
        is_folder=True,
    )
    seeds: int | None = setting(
        None, "Trainings of each model, with different seeds. null: 5 (scale=small), 1 (scale=paper).", minimum=1
    )
    steps: int | None = setting(
        None, "Steps of each training. null: 1,000 (scale=small), the paper's (scale=paper).", unit="steps", minimum=1
    )
    force: bool = setting(False, "Run all experiments that this command needs again.")
    dry_run: bool = setting(False, "Print what is needed and how long it takes, and end.")
    device: str = setting("auto", "Device of latency: cpu, cuda, cuda:N, or auto: cuda if available.")
    small: SmallConfig = group(SmallConfig)
    paper: PaperConfig = group(PaperConfig)
    table2: Table2Config = group(Table2Config)
    mlflow: MLflowConfig = group(MLflowConfig)

    @property
    def training_mlflow(self) -> TrainMLflowConfig:
        """Where trainings are recorded. Their models stay in the output, without a copy in MLflow."""
        return TrainMLflowConfig(**asdict(self.mlflow), log_model=False)
