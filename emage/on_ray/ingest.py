"""URL table -> token table: download, tokenize, shuffle, and an account of every row. Knows no picture and no URL.

    output/run.json            the settings that the folder belongs to
    output/shards/NNNNN/       downloaded pictures            (emage.on_ray.download)
    output/tokenized/NNNNN/    tokens, shard by shard         (emage.on_ray.tokenizing)
    output/tokens/*.parquet    the token table                (emage.on_ray.shuffle)
    output/ingest_report.json  rows in = written + rejected (by rule) + failed (by cause)

A stage whose manifest is there is not run again, a shard whose manifest is there is not made again.
"""

import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from emage import manifest, pictures, schema, sheets, sources
from emage.config import IngestConfig
from emage.errors import InputError
from emage.on_ray import download, launch, shuffle, tokenizing, tracking

STAGES = ("download", "tokenize", "shuffle")
REPORT = "ingest_report.json"
SHEET = 32  # pictures on the contact sheet

# Settings that change how fast and how patiently, but not what comes out.
HOW = {
    "download": ("threads", "shards_in_flight", "timeout_s", "retries", "min_success_rate", "user_agent_token"),
    "tokenize": ("batch_size", "num_actors", "gpus_per_actor"),
}


def ingest(config: IngestConfig) -> dict[str, Any]:
    """Runs the stages that `config.stage` asks for, as far as they are not done. Prints and returns the report."""
    output = Path(config.output).absolute()
    stages = _pending(config, output)
    report = manifest.read_json(output / REPORT)
    if stages or report is None or report["stages"] != list(_manifests(output)):
        tokenizer = None
        if "tokenize" in stages:
            launch.check_gpus(config.tokenize.gpus_per_actor * config.tokenize.num_actors, "tokenize.gpus_per_actor")
            tokenizer = tokenizing.describe(config.tokenize, config.download.image_size)
        manifest.claim(output, "ingest", _identity(config))
        seconds = {} if report is None else report["seconds"]
        launch.start_ray()
        with tracking.start(config.mlflow, stage="ingest", settings=config) as run:
            for stage in stages:
                started = time.monotonic()
                _run(stage, config, output, tokenizer)
                seconds[stage] = round(time.monotonic() - started, 2)
            report = {"dataset": config.source.dataset, **_account(output), "seconds": seconds}
            manifest.write_json(output / REPORT, report)
            _record(run, report, output)
    _print(report, output)
    return report


def _pending(config: IngestConfig, output: Path) -> list[str]:
    """The stages to run. Raises InputError, with nothing written, where the first of them has no input."""
    wanted = STAGES if config.stage == "all" else (config.stage,)
    if "download" in wanted:
        sources.check(config.source)
    if (output / "run.json").exists():
        manifest.claim(output, "ingest", _identity(config))
    done = _manifests(output)
    if {"download"} & done.keys() & set(wanted) and done["download"]["source"] != sources.describe(config.source):
        raise InputError(
            f"{config.source.table} has changed since {output} was made from it; "
            "choose another output= or delete the folder"
        )
    for stage, before in (("tokenize", "download"), ("shuffle", "tokenize")):
        if wanted[0] == stage and before not in done:
            raise InputError(f"{output} has no finished {before} stage; run stage={before} (or stage=all) first")
    return [stage for stage in wanted if stage not in done]


def _identity(config: IngestConfig) -> dict[str, Any]:
    """What the token table depends on."""
    settings = {name: asdict(getattr(config, name)) for name in ("source", "download", "tokenize", "shuffle")}
    return {
        name: {key: value for key, value in group.items() if key not in HOW.get(name, ())}
        for name, group in settings.items()
    }


def _manifests(output: Path) -> dict[str, dict[str, Any]]:
    """Stage -> manifest, for every stage that is finished."""
    shards, tokenized, tokens = output / "shards", output / "tokenized", output / "tokens"
    found = {
        "download": download.finished(shards),
        "tokenize": tokenizing.finished(shards, tokenized),
        "shuffle": shuffle.finished(tokenized, tokens),
    }
    return {stage: values for stage, values in found.items() if values is not None}


def _run(stage: str, config: IngestConfig, output: Path, tokenizer: schema.TokenizerInfo | None) -> None:
    if stage == "download":
        download.run(config.source, config.download, output / "shards")
    elif stage == "tokenize":
        assert tokenizer is not None
        tokenizing.run(
            config.tokenize,
            tokenizer,
            image_size=config.download.image_size,
            shards=output / "shards",
            folder=output / "tokenized",
        )
    else:
        shuffle.run(config.shuffle, tokenized=output / "tokenized", work=output / "shuffle", folder=output / "tokens")


# --- The account -----------------------------------------------------------------------------------------------------


def _account(output: Path) -> dict[str, Any]:
    """What became of every row. Raises RuntimeError where the numbers of two stages contradict each other."""
    done = _manifests(output)
    rejected, failed = Counter[str](), Counter[str]()
    before = done["download"]["rows"]
    for stage in STAGES:
        if stage not in done:
            break
        values = done[stage]
        rejected.update(values.get("rejected", {}))
        failed.update(values.get("failed", {}))
        after = values.get("written", values["rows"])
        lost = sum(values.get("rejected", {}).values()) + sum(values.get("failed", {}).values())
        if values["rows"] != before or after + lost != before:
            raise RuntimeError(f"{stage} does not reconcile: {before} rows in, {after} went on, {lost} were dropped")
        before = after
    written = 0
    if "shuffle" in done:
        files = [output / "tokens" / file["name"] for file in done["shuffle"]["files"]]
        written = sum(pq.read_metadata(file).num_rows for file in files)
        if written != before:
            raise RuntimeError(f"the token table holds {written} rows instead of {before}")
    return {
        "stages": list(done),  # that this account knows of
        "rows_in": done["download"]["rows"],
        "written": written,
        "waiting": before - written,  # for the stages that have not run yet
        "rejected": dict(rejected.most_common()),
        "failed": dict(failed.most_common()),
    }


def _outcomes(report: dict[str, Any]) -> list[tuple[str, str, int]]:
    """(outcome, cause, rows): the lines that add up to the rows that came in."""
    lines = [("written", "", report["written"])]
    lines += [("waiting", "for the next stage", report["waiting"])] if report["waiting"] else []
    lines += [("rejected", rule, rows) for rule, rows in report["rejected"].items()]
    lines += [("failed", cause, rows) for cause, rows in report["failed"].items()]
    return lines


def _print(report: dict[str, Any], output: Path) -> None:
    table = Table(title=f"ingest of {report['dataset']}", title_justify="left")
    for name in ("", "cause"):
        table.add_column(name)
    for name in ("rows", "share"):
        table.add_column(name, justify="right")
    for outcome, cause, rows in _outcomes(report):
        table.add_row(outcome, cause, f"{rows:,}", f"{rows / report['rows_in']:.1%}")
    table.add_section()
    table.add_row("rows in", "", f"{report['rows_in']:,}", "100.0%")
    console = Console()
    console.print(table)
    console.print("  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report["seconds"].items()))
    console.print(f"token table: {output / 'tokens'}" if report["written"] else f"output: {output}", soft_wrap=True)


def _record(run: tracking.Run, report: dict[str, Any], output: Path) -> None:
    lines = _outcomes(report)
    columns = [list(column) for column in zip(*lines, strict=True)]
    run.table("reconciliation.json", dict(zip(("outcome", "cause", "rows"), columns, strict=True)))
    run.metrics({f"{outcome}/{cause}" if cause else outcome: rows for outcome, cause, rows in lines})
    run.metrics({outcome: sum(report[outcome].values()) for outcome in ("rejected", "failed")})
    run.metrics({"rows_in": report["rows_in"], **{f"seconds/{k}": s for k, s in report["seconds"].items()}})
    run.file(output / REPORT)
    sheet = _contact_sheet(download.shard_folder(output / "shards", 0) / download.PICTURES)
    if sheet is not None:
        run.picture("contact_sheet.png", sheet)


def _contact_sheet(file: Path) -> Image.Image | None:
    """The first pictures of a shard, as they go to the tokenizer, with their captions."""
    with pq.ParquetFile(file) as shard:
        batch = next(shard.iter_batches(batch_size=SHEET, columns=["image", "caption"]), None)
    if not batch:
        return None
    shown: list[tuple[Image.Image, str]] = []
    for data, caption in zip(batch["image"].to_pylist(), batch["caption"].to_pylist(), strict=True):
        with suppress(pictures.PictureError):  # counted where it was tokenized
            shown.append((Image.fromarray(pictures.pixels(data)), caption))
    return sheets.sheet(*zip(*shown, strict=True), columns=8) if shown else None
