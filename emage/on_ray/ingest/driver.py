"""URL tables -> token table: select, download, tokenize, shuffle; and a report that accounts for every row.

    output/run.json            the settings that the folder belongs to
    output/tokens/*.parquet    the token table; the folders of the other stages are in emage.on_ray.ingest.stages
    output/ingest_report.*     rows in = written + filtered + rejected + failed (see report/)

The same command resumes: a stage that is finished is not run again.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emage.config import IngestConfig, SourceConfig, TokenizeConfig, check
from emage.data import schema
from emage.data.ingest import url_filter, url_table
from emage.data.ingest.sources import kinds
from emage.on_ray import launch, tracking
from emage.on_ray.ingest import select_urls, stages, tokenize_shards
from emage.on_ray.ingest.report import reconciliation
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

# Settings, by group, that decide how fast and with how many retries an ingest runs, but do not belong to its identity.
NOT_IN_IDENTITY = {
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
# Settings, by group, that earlier versions lacked: an output of theirs, which has no value of them, has the default.
ADDED = {
    "source": {"several_captions": SourceConfig.several_captions, "image": SourceConfig.image},
    "tokenize": {"language": TokenizeConfig.language},
}


@dataclass(frozen=True)
class Inputs:
    """Everything that an ingest has checked and loaded before it writes anything."""

    config: IngestConfig
    output: Path  # absolute
    identity: dict[str, Any]
    tables: list[SourceConfig]  # with absolute paths
    block_lists: url_filter.BlockLists | None  # None: neither select nor download is to run
    todo: list[str]  # stages, in order
    tokenizer: schema.TokenizerInfo | None  # None: nothing is to be tokenized
    finished: dict[str, Any] | None  # the report of an earlier run, if nothing is left to do


def ingest(config: IngestConfig) -> dict[str, Any]:
    """Run the stages that `config.stage` names, except those that are finished.

    Returns:
        The report of `reconciliation.reconcile`, with the seconds of each stage. It is printed as well.

    Raises:
        InputError: Settings, tables, block lists, tokenizer or output are not usable.
    """
    validate(config)
    inputs = resolve(config)
    if (report := inputs.finished) is None:
        with launch.output_run(inputs, "ingest") as tracked:
            report = run(inputs, tracked)
    reconciliation.print_report(report, inputs.output)
    return report


def validate(config: IngestConfig) -> None:
    """Raise InputError for settings that no stage can work with: once claimed, an output keeps its settings."""
    check(config)


def resolve(config: IngestConfig) -> Inputs:
    """Read the tables' beginnings, the block lists and the tokenizer; find the stages that are to run.

    Raises:
        InputError: One of them is not usable, or the stage before the first one to run is not finished.
    """
    output, tables = Path(config.output).absolute(), url_table.list_tables(config)
    requested = stages.list_requested(config.stage)
    block_lists = None
    if "select" in requested:
        tables = [kinds.resolve(table) for table in tables]
        for table in tables:
            kinds.check(table)
            if passed_over := kinds.find_files(table).passed_over_text(table):
                print(passed_over, flush=True)
        select = config.select
        block_lists = url_filter.read_block_lists(select.block_urls, select.block_hosts, select.block_md5)
    identity = _identity(config)
    launch.check_output(output, "ingest", identity)
    done = stages.read_finished(output, config.download.passes)
    if "select" in requested and "select" in done:
        _check_unchanged(config, tables, done["select"], output)
    stages.check_input(requested[0], done, output)
    todo = [stage for stage in requested if stage not in done]
    report = reconciliation.read_report(output)
    finished = report if report and not todo and report["stages"] == list(done) else None
    tokenizer = _tokenizer(config) if "tokenize" in todo else None
    return Inputs(config, output, identity, tables, block_lists, todo, tokenizer, finished)


def run(inputs: Inputs, tracked: tracking.TrackedRun) -> dict[str, Any]:
    """Run the stages, write the report and return it."""
    config, output = inputs.config, inputs.output
    seconds = (reconciliation.read_report(output) or {}).get("seconds", {})
    stages.remove_work(inputs.todo, output)
    for stage in inputs.todo:
        started = time.monotonic()
        stages.run_stage(
            stage,
            config,
            output,
            tables=inputs.tables,
            block_lists=inputs.block_lists,
            tokenizer=inputs.tokenizer,
        )
        seconds[stage] = round(time.monotonic() - started, 2)
    done = stages.read_finished(output, config.download.passes)
    report = {**reconciliation.reconcile(done, output), "seconds": seconds}
    reconciliation.write_report(tracked, report, output)
    return report


def _identity(config: IngestConfig) -> dict[str, Any]:
    """Return the settings that the token table depends on."""
    settings = asdict(config)
    identity: dict[str, Any] = {}
    for group in ("source", "more", "select", "download", "tokenize", "shuffle"):
        without = NOT_IN_IDENTITY.get(group, ())
        identity[group] = {key: value for key, value in settings[group].items() if key not in without}
    for group, added in ADDED.items():
        for key, default in added.items():
            if identity[group][key] == default:
                del identity[group][key]
    return identity


def _check_unchanged(config: IngestConfig, tables: list[SourceConfig], selected: dict[str, Any], output: Path) -> None:
    """Raise InputError if a table or a block list has changed since the finished select stage read it."""
    if select_urls.has_changed(selected["source"], tables, config.select):
        names = [*(redact_settings(table.table) for table in tables), *select_urls.block_list_files(config.select)]
        raise InputError(
            f"{' or '.join(names)} has changed since {output} was made from it; "
            "choose another output= or delete the folder"
        )


def _tokenizer(config: IngestConfig) -> schema.TokenizerInfo:
    launch.check_gpus(config.tokenize.gpus_per_actor * config.tokenize.num_actors, "tokenize.gpus_per_actor")
    return tokenize_shards.describe(config.tokenize, config.download.image_size)
