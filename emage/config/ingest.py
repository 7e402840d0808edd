"""Settings of the ingest, table of URLs -> token table; and of `emage inspect`, token table -> statistics, images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import MISSING

from emage.config.environment import MLflowConfig
from emage.config.fields import MAX_SEED, group, nearest, setting, shown_value

# Languages that the caption rules can tell apart (eldc's), by their codes in ISO 639-1; "ms" is Indonesian as well.
_CODES = """am ar az be bg bn ca cs da de el en es et eu fa fi fr gu he hi hr hu hy is it ja ka kn ko ku lo lt lv ml mr
    ms nl no or pa pl pt ro ru sk sl sq sr sv ta te th tl tr uk ur vi yo zh"""
LANGUAGES = tuple(_CODES.split())


@dataclass(frozen=True)
class SourceConfig:
    """A table of image URLs, or images with their captions, and the names of columns."""

    table: str = setting(
        MISSING,
        "What to ingest: a table of URLs (parquet, csv, tsv, jsonl, or a folder of them), a folder of images with "
        "captions beside them, .tar archives of both (shards/{00000..00099}.tar), or parquet files with images' bytes; "
        "local or on object storage.",
        is_path=True,
    )
    dataset: str = setting("web", "Name of the data set, the token table's column `dataset`.")
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl", "folder", "tar", "image_parquet"] = setting(
        "auto",
        "Format of a table of URLs; folder (of images), tar (archives of them), image_parquet (their bytes); auto: by "
        "what is there, and by the endings of names.",
    )
    names: tuple[str, ...] = setting((), "Column names, in order, of a csv or tsv file without a header.")
    url: str = setting("url", "Column with the URL.")
    image: str = setting("image", "Column with the images' bytes, or structs of bytes and path, in parquet files.")
    caption: tuple[str, ...] = setting(
        ("caption",), "Columns with the caption; several are joined by a space.", not_empty=True
    )
    several_captions: Literal["all", "random"] = setting(
        "all", "Rows of an image with several captions: one for each, or one for one of them, chosen at random."
    )
    unquote: bool = setting(False, "Decode %-escapes and + in captions (YFCC100M).")
    where: tuple[str, ...] = setting(
        (), "Conditions on other columns that a row must meet, for example [similarity>=0.3, NSFW==UNLIKELY]."
    )
    md5: str | None = setting(None, "Column with the md5 sum of the image, for select.block_md5.")


@dataclass(frozen=True)
class SelectConfig:
    """Block lists of URLs, hosts and md5 sums: text files with one entry per line, also as .gz."""

    block_urls: tuple[str, ...] = setting((), "Lists of URLs.", is_path=True)
    block_hosts: tuple[str, ...] = setting((), "Lists of hosts; their subdomains are blocked too.", is_path=True)
    block_md5: tuple[str, ...] = setting(
        (), "Lists of md5 sums, compared with source.md5 before the download and with the bytes after it.", is_path=True
    )


@dataclass(frozen=True)
class DownloadConfig:
    """The download of images by img2dataset, one Ray task per shard."""

    shard_rows: int = setting(10_000, "Rows per shard.", unit="rows", minimum=1)
    image_size: int = setting(
        256,
        "Side of the stored images: the shorter side is resized to it, then the centre is cropped.",
        unit="pixels",
        minimum=1,
        source="paper, Abstract",
    )
    min_image_size: int = setting(64, "Images whose shorter side is smaller are dropped.", unit="pixels", minimum=0)
    max_image_pixels: int = setting(100_000_000, "Images with more pixels are dropped.", unit="pixels", minimum=1)
    max_bytes: int = setting(50_000_000, "Larger responses are dropped.", unit="bytes", minimum=1)
    threads: int = setting(64, "Threads per shard.", unit="threads", minimum=1)
    shards_in_flight: int = setting(
        0,
        "Shards downloaded at the same time; 0: one per two CPUs of the nodes that download.",
        unit="shards",
        minimum=0,
    )
    node_resource: str = setting(
        "", "Download only on nodes with this custom Ray resource (cluster/README.md); empty: on any node."
    )
    timeout_s: float = setting(10.0, "Time limit for the whole request of an image.", unit="seconds", above=0)
    retries: int = setting(1, "Immediate retries of a failed request.", unit="retries", minimum=0)
    passes: int = setting(
        2, "Rounds over all shards; later rounds retry what failed for a temporary reason.", unit="rounds", minimum=1
    )
    allow_private_hosts: bool = setting(False, "Allow private addresses: for tests and intranets.")
    min_success_rate: float = setting(
        0.1,
        "Stop if a smaller fraction of a shard's last 1,000 rows is downloaded; a broken DNS resolver looks like 0.01.",
        unit="fraction of the rows",
        minimum=0,
        maximum=1,
    )
    user_agent_token: str = setting(
        "emage", "Name in the User-Agent header, and in X-Robots-Tag headers that concern it."
    )


@dataclass(frozen=True)
class TokenizeConfig:
    """Caption rules, image decoding and the tokenizer's actors, in Ray Data."""

    tokenizer: str = setting(
        "vqgan-gumbel-f8-8192", "Name of the tokenizer (emage.tokenizers.TOKENIZERS).", source="paper, Sec. 4.1"
    )
    weights: str | None = setting(
        None,
        "Weights of the tokenizer: a .ckpt or .safetensors file. null: from the cache, or downloaded by name.",
        is_path=True,
    )
    batch_size: int = setting(32, "Images that an actor tokenizes at a time.", unit="images", minimum=1)
    num_actors: int = setting(1, "Ray actors, each with a tokenizer.", unit="actors", minimum=1)
    gpus_per_actor: float = setting(1.0, "GPUs per actor; 0: on CPUs.", unit="GPUs", minimum=0)
    node_resource: str = setting("", "Actors only on nodes with this custom Ray resource; empty: on any node.")
    caption_rules: bool = setting(True, "Clean captions and drop rows whose caption breaks a rule.")
    language: str = setting(
        "en",
        "Language of the captions, two letters (ISO 639-1), or several with commas: en,de. Captions that are surely in "
        "another one are dropped. any: all are kept.",
    )

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes of `language`."""
        return tuple(code.strip() for code in self.language.split(","))

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message for a language that the caption rules do not know."""
        for code in self.languages:
            if code not in ("any", *LANGUAGES):
                wrong, near = shown_value(code), nearest(code, LANGUAGES)
                yield f"{prefix}language={wrong}: must be one or several of any, {', '.join(LANGUAGES)}{near}"


@dataclass(frozen=True)
class ShuffleConfig:
    """The global shuffle and the layout of the token table."""

    seed: int = setting(0, "Seed of the shuffle.", minimum=0, maximum=MAX_SEED)
    rows_per_file: int = setting(65_536, "Rows per file; about 128 MB at 1,024 tokens.", unit="rows", minimum=1)
    row_group_rows: int = setting(4_096, "Rows per row group of a file.", unit="rows", minimum=1)
    drop_same_content: bool = setting(
        False, "Of rows whose images have the same bytes keep one; such rows are counted in any case."
    )


@dataclass(frozen=True)
class IngestConfig:
    """URL table -> token table (pipelines/ingest.py)."""

    stage: Literal["all", "select", "download", "tokenize", "shuffle"] = setting(
        "all", "Stage to run; `download` includes `select`."
    )
    output: str = setting(
        MISSING, "Folder for urls/, shards/, tokenized/, tokens/ (the token table) and the reports.", is_folder=True
    )
    source: SourceConfig = group(SourceConfig)
    more: dict[str, Any] = setting(
        dict,
        "Further tables by data set, with the keys of `source`: more.cc12m.table=cc12m.tsv. A name that is a preset "
        "has that preset's columns.",
    )
    select: SelectConfig = group(SelectConfig)
    download: DownloadConfig = group(DownloadConfig)
    tokenize: TokenizeConfig = group(TokenizeConfig)
    shuffle: ShuffleConfig = group(ShuffleConfig)
    mlflow: MLflowConfig = group(MLflowConfig)


@dataclass(frozen=True)
class InspectionConfig:
    """Token table -> its statistics, and a sample of its images (emage inspect PATH)."""

    path: str = setting(MISSING, "Token table: its folder, on this machine.", is_path=True)
    sheet: str | None = setting(
        None, "File for a contact sheet of decoded images with their captions: .png, .jpg, .webp.", is_path=True
    )
    pictures: int = setting(32, "Images on the sheet.", unit="images", minimum=1)
    sample: int = setting(
        50_000,
        "Rows, selected at random, from which the statistics of captions and codes are computed.",
        unit="rows",
        minimum=1,
    )
    weights: str | None = setting(
        None,
        "Weights of the tokenizer, for the sheet: a file. null: from the cache, or downloaded by name.",
        is_path=True,
    )
    seed: int = setting(0, "Seed of the random selections.", minimum=0, maximum=MAX_SEED)
