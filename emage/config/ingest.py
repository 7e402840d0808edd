"""Settings of the ingest: table of URLs -> token table."""

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from emage.config.tracking import MLflowConfig


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
    md5: str | None = None  # column with the image's md5 sum, for select.block_md5


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
    timeout_s: float = 10.0  # per image, whole request
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
    drop_same_content: bool = False  # of images with the same bytes, keep one pair; they are counted in any case


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
