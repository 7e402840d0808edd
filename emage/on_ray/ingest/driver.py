"""URL tables -> token table: select, download, tokenize, shuffle; and an account of every row. Knows no image.

    output/run.json            the settings that the folder belongs to
    output/urls/NNNNN.parquet  rows to download               (emage.on_ray.ingest.select_urls)
    output/shards/NNNNN/       downloaded images            (emage.on_ray.ingest.download)
    output/tokenized/NNNNN/    tokens, shard by shard         (emage.on_ray.ingest.tokenize_shards)
    output/tokens/*.parquet    the token table                (emage.on_ray.ingest.shuffle)
    output/ingest_report.*     rows in = written + filtered + rejected (by rule) + failed (by cause)

A stage whose manifest is there is not run again, a shard whose manifest is there is not made again. Once the token
table is there, the folders of single shards may be deleted to save space; the stages' own manifests must stay.
"""

import json
import re
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emage.config import IngestConfig, SourceConfig
from emage.data import schema
from emage.data.ingest import decode_image, url_filter, url_table
from emage.data.ingest.report import chart, markdown, rejected_captions, summary
from emage.on_ray import launch, tasks, tracking
from emage.on_ray.ingest import download, select_urls, shuffle, tokenize_shards
from emage.utils import image_grid, manifest
from emage.utils.errors import InputError
from emage.utils.redact import redact

STAGES = ("select", "download", "tokenize", "shuffle")
DROPS = ("filtered", "rejected", "failed")  # what a stage may count beside the rows that go on, by cause
WORK = {"select": "select", "shuffle": "shuffle"}  # folders that a stage needs until it ends
REPORT, MARKDOWN = "ingest_report.json", "ingest_report.md"
SHEET = 32  # images on the contact sheet

# Settings that change how fast and how patiently, but not what comes out.
HOW = {
    "download": (
        "threads",
        "shards_in_flight",
        "timeout_s",
        "retries",
        "passes",
        "min_success_rate",
        "user_agent_token",
    ),
    "tokenize": ("batch_size", "num_actors", "gpus_per_actor"),
}


def ingest(config: IngestConfig) -> dict[str, Any]:
    """Runs the stages that `config.stage` asks for, as far as they are not done. Prints and returns the report."""
    output = Path(config.output).absolute()
    tables = url_table.list_tables(config)
    stages = _pending(config, tables, output)
    report = manifest.read_json(output / REPORT)
    if stages or report is None or report["stages"] != list(_manifests(config, output)):
        tokenizer = None
        if "tokenize" in stages:
            launch.check_gpus(config.tokenize.gpus_per_actor * config.tokenize.num_actors, "tokenize.gpus_per_actor")
            tokenizer = tokenize_shards.describe(config.tokenize, config.download.image_size)
        manifest.claim_output(output, "ingest", _identity(config))
        seconds = {} if report is None else report["seconds"]
        launch.start_ray()
        with (
            tasks.writing(output),
            launch.alone(output),
            tracking.start(config.mlflow, stage="ingest", settings=config) as run,
        ):
            for stage, folder in WORK.items():
                if stage not in stages:  # a kill at the very end of a stage may have left it
                    shutil.rmtree(output / folder, ignore_errors=True)
            for stage in stages:
                started = time.monotonic()
                _run(stage, config, tables, output, tokenizer)
                seconds[stage] = round(time.monotonic() - started, 2)
            report = {**_account(config, output), "seconds": seconds}
            _record(run, report, output)
    _print(report, output)
    return report


def _pending(config: IngestConfig, tables: list[SourceConfig], output: Path) -> list[str]:
    """The stages to run. Raises InputError, with nothing written, where the first of them has no input."""
    _check(config)
    wanted = {"all": STAGES, "download": ("select", "download")}.get(config.stage, (config.stage,))
    if "select" in wanted:
        for table in tables:
            url_table.check(table)
        _block_lists(config)
    if (output / "run.json").exists():
        manifest.claim_output(output, "ingest", _identity(config))
    done = _manifests(config, output)
    if (
        "select" in wanted
        and "select" in done
        and done["select"]["source"] != select_urls.describe(tables, config.select)
    ):
        names = [*(redact(table.table) for table in tables), *select_urls.lists(config.select)]
        raise InputError(
            f"{' or '.join(names)} has changed since {output} was made from it; "
            "choose another output= or delete the folder"
        )
    for stage, before in (("tokenize", "download"), ("shuffle", "tokenize")):
        if wanted[0] == stage and before not in done:
            raise InputError(f"{output} has no finished {before} stage; run stage={before} (or stage=all) first")
    return [stage for stage in wanted if stage not in done]


def _check(config: IngestConfig) -> None:
    """Raises InputError for numbers that no stage can work with: once claimed, an output keeps its settings."""
    least_one = {
        "download": ("shard_rows", "image_size", "max_image_pixels", "max_bytes", "threads", "passes"),
        "tokenize": ("batch_size", "num_actors"),
        "shuffle": ("rows_per_file", "row_group_rows"),
    }
    for group, names in least_one.items():
        for name in names:
            if (value := getattr(getattr(config, group), name)) < 1:
                raise InputError(f"{group}.{name}={value}: there must be at least one")
    if not 0 <= config.download.min_success_rate <= 1:
        raise InputError(f"download.min_success_rate={config.download.min_success_rate}: a share is between 0 and 1")
    if config.download.timeout_s <= 0:
        raise InputError(f"download.timeout_s={config.download.timeout_s}: no request ends in no time")


def _block_lists(config: IngestConfig) -> url_filter.BlockLists:
    return url_filter.block_lists(config.select.block_urls, config.select.block_hosts, config.select.block_md5)


def _identity(config: IngestConfig) -> dict[str, Any]:
    """What the token table depends on."""
    settings = asdict(config)
    settings["source"]["table"] = redact(settings["source"]["table"])  # another key opens the same table
    settings["more"] = json.loads(redact(json.dumps(settings["more"])))
    names = ("source", "more", "select", "download", "tokenize", "shuffle")
    return {
        name: {key: settings[name][key] for key in settings[name] if key not in HOW.get(name, ())} for name in names
    }


def _manifests(config: IngestConfig, output: Path) -> dict[str, dict[str, Any]]:
    """Stage -> manifest, of the finished stages: up to the first that is not, or is not made from the one before."""
    urls, shards, tokenized, tokens = (output / name for name in ("urls", "shards", "tokenized", "tokens"))
    found = {
        "select": select_urls.finished(urls),
        "download": manifest.read_json(shards / manifest.NAME),
        "tokenize": manifest.read_json(tokenized / manifest.NAME),
        "shuffle": shuffle.finished(tokens),
    }
    # Where there is a token table of it all, the single shards need not be there any more.
    if not all(found.values()) or not _is_one_chain(found) or found["download"]["passes"] < config.download.passes:
        found["download"] = download.finished(shards, config.download.passes)
        found["tokenize"] = tokenize_shards.finished(shards, tokenized)
        if found["tokenize"] and found["shuffle"] and found["shuffle"]["input"] != shuffle.made_from(found["tokenize"]):
            found["shuffle"] = None
    return dict(takewhile(lambda stage: stage[1], found.items()))


def _is_one_chain(found: dict[str, Any]) -> bool:
    """Whether each stage was made from what the one before it has now."""
    return (
        found["tokenize"]["input"] == found["download"]["content"]
        and shuffle.made_from(found["tokenize"]) == found["shuffle"]["input"]
    )


def _run(
    stage: str,
    config: IngestConfig,
    tables: list[SourceConfig],
    output: Path,
    tokenizer: schema.TokenizerInfo | None,
) -> None:
    urls, shards, tokenized = (output / name for name in ("urls", "shards", "tokenized"))
    if stage == "select":
        select_urls.run(tables, config.select, config.download.shard_rows, work=output / "select", folder=urls)
    elif stage == "download":
        download.run(config.download, urls, shards, _block_lists(config).md5)
    elif stage == "tokenize":
        assert tokenizer is not None
        image_size = config.download.image_size
        tokenize_shards.run(config.tokenize, tokenizer, image_size=image_size, shards=shards, folder=tokenized)
    else:
        shuffle.run(config.shuffle, tokenized=tokenized, work=output / "shuffle", folder=output / "tokens")


# --- The account -----------------------------------------------------------------------------------------------------


def _account(config: IngestConfig, output: Path) -> dict[str, Any]:
    """What became of every row. Raises RuntimeError where the numbers of two stages contradict each other."""
    done = _manifests(config, output)
    dropped = {kind: Counter[str]() for kind in DROPS}
    before = done["select"]["rows"]
    for stage in STAGES[: len(done)]:
        values = done[stage]
        for kind in DROPS:
            dropped[kind].update(values.get(kind, {}))
        lost = sum(sum(values.get(kind, {}).values()) for kind in DROPS)
        if values["rows"] != before or values["written"] + lost != before:
            raise RuntimeError(
                f"{stage} does not reconcile: {before} rows in, {values['written']} went on, {lost} were dropped"
            )
        before = values["written"]
    written = 0
    if "shuffle" in done:
        files = [output / "tokens" / file["name"] for file in done["shuffle"]["files"]]
        written = sum(pq.read_metadata(file).num_rows for file in files)
        if written != before:
            raise RuntimeError(f"the token table holds {written} rows instead of {before}")
    return {
        "stages": list(done),  # that this account knows of
        "rows_in": done["select"]["rows"],
        "written": written,
        "waiting": before - written,  # for the stages that have not run yet
        **{kind: dict(counts.most_common()) for kind, counts in dropped.items()},
        "same_content": done.get("shuffle", {}).get("same_content"),
        "won_back": done.get("download", {}).get("won_back"),
        "datasets": _funnel(done),
    }


def _funnel(done: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Data set -> how many of its rows came in, were selected, arrived and were written, as far as that is known."""
    funnel = {name: dict(counts) for name, counts in done["select"]["datasets"].items()}
    for stage, outcome in (("download", "arrived"), ("shuffle", "written")):
        if stage in done:
            for name in funnel:
                funnel[name][outcome] = done[stage]["datasets"].get(name, 0)
    return funnel


def _print(report: dict[str, Any], output: Path) -> None:
    table = Table(title=escape(f"ingest of {', '.join(report['datasets'])}"), title_justify="left")
    for name in ("", "cause"):
        table.add_column(name)
    for name in ("rows", "share"):
        table.add_column(name, justify="right")
    for outcome, cause, rows in summary.list_outcomes(report):
        table.add_row(outcome, escape(cause), f"{rows:,}", summary.percent(rows, report["rows_in"]))
    table.add_section()
    table.add_row("rows in", "", f"{report['rows_in']:,}", "100.0%")
    console = Console()
    console.print(table)
    for sentence in summary.summarize(report):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print("  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report["seconds"].items()))
    console.print(f"report: {output / MARKDOWN}", soft_wrap=True)
    console.print(f"token table: {output / 'tokens'}" if report["written"] else f"output: {output}", soft_wrap=True)


def _record(run: tracking.TrackedRun, report: dict[str, Any], output: Path) -> None:
    """Writes the report with its images, its JSON last, and all of it into the MLflow run."""
    rejected = rejected_captions.select_captions(output / "tokenized")
    (output / MARKDOWN).write_text(markdown.format_markdown(report, rejected))
    for name, image in ((markdown.CHART_FILE, chart.plot_chart(report)), ("pictures.png", _contact_sheet(output))):
        if image is not None:
            image.save(output / name)
            run.image(name, image)
    manifest.write_json(output / REPORT, report)
    lines = summary.list_outcomes(report)
    columns = [list(column) for column in zip(*lines, strict=True)]
    run.table("reconciliation.json", dict(zip(("outcome", "cause", "rows"), columns, strict=True)))
    run.metrics({_metric(f"{outcome}/{cause}" if cause else outcome): rows for outcome, cause, rows in lines})
    run.metrics({outcome: sum(report[outcome].values()) for outcome in DROPS})
    run.metrics({"rows_in": report["rows_in"], **{f"seconds/{k}": s for k, s in report["seconds"].items()}})
    for name, funnel in report["datasets"].items():
        run.metrics({_metric(f"dataset/{name}/{step}"): rows for step, rows in funnel.items()})
    for name in (REPORT, MARKDOWN):
        run.file(output / name)


def _metric(name: str) -> str:
    """A name that MLflow takes: a condition such as similarity>=0.3 is none."""
    return re.sub(r"[^\w./ :-]", "_", name)


def _contact_sheet(output: Path) -> Image.Image | None:
    """The first images of the first shard, as they go to the tokenizer, with their captions."""
    if download.shard_manifest(output / "shards", 0) is None:
        return None
    with pq.ParquetFile(download.image_files(output / "shards", 0)[0]) as shard:
        batch = next(shard.iter_batches(batch_size=SHEET, columns=["image", "caption"]), None)
    if not batch:
        return None
    shown: list[tuple[Image.Image, str]] = []
    for data, caption in zip(batch["image"].to_pylist(), batch["caption"].to_pylist(), strict=True):
        with suppress(decode_image.ImageError):  # counted where it was tokenized
            shown.append((Image.fromarray(decode_image.pixels(data)), caption))
    return image_grid.sheet(*zip(*shown, strict=True), columns=8) if shown else None
