"""The download stage: shards of URLs -> image shards, one Ray task per shard (download_shard.py).

1. Round 1 downloads every shard.
2. After round 1 of all shards, a retry round repeats the downloads that failed for a reason that may be temporary.
   Further retry rounds follow, up to `download.passes` rounds in all, the first included.
3. The stage's own manifest sums up those of the shards.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import ray

from emage.config import DownloadConfig, SourceConfig
from emage.data.ingest.download import statuses
from emage.on_ray import tasks
from emage.on_ray.ingest.download import download_shard, image_shards
from emage.on_ray.ingest.download.download_shard import URLS_MANIFEST, ShardJob
from emage.utils import manifest
from emage.utils.errors import InputError

SUMMED = ("rows", "written", "won_back")  # the counters of a shard's manifest
SUMMED_BY_NAME = ("failed", "datasets")  # the counters with one number per drop reason or data set


def run(
    config: DownloadConfig,
    urls: Path,
    folder: Path,
    blocked_md5: np.ndarray | ray.ObjectRef | None = None,
    inputs: Sequence[SourceConfig] = (),
) -> dict[str, Any]:
    """Run the rounds that the shards in `folder` have not had yet, and write the stage's manifest.

    Args:
        config: The settings.
        urls: The shards of URLs and their manifest.
        folder: The image shards.
        blocked_md5: Images to drop: (n,) uint64, sorted, the first 8 bytes of their md5 sums, big endian.
        inputs: Of the ingest, resolved: where the images are that are not on the web.

    Returns:
        The stage's manifest.

    Raises:
        InputError: A shard was made from other rows or with other settings, too few images arrive, or the folder
            cannot be written.
    """
    with tasks.explain_disk_errors(folder):
        jobs = _list_jobs(config, urls, folder, tuple(inputs))
        folder.mkdir(exist_ok=True)
        manifest.remove_leftovers(folder)
        if isinstance(blocked_md5, np.ndarray):
            blocked_md5 = ray.put(blocked_md5)  # once, instead of with every task
        try:
            for round_number in range(1, config.passes + 1):
                if todo := _shards_to_download(jobs, round_number):
                    (folder / manifest.NAME).unlink(missing_ok=True)  # its sums are about to change
                    _run_round(round_number, jobs, todo, folder, blocked_md5)
        finally:
            manifest.remove_leftovers(folder)  # of workers that died
        values = {**_sum_of_shards(folder, len(jobs)), "passes": config.passes}
        manifest.write_json(folder / manifest.NAME, values)
    return values


def _list_jobs(config: DownloadConfig, urls: Path, folder: Path, inputs: tuple[SourceConfig, ...]) -> list[ShardJob]:
    """Return a job for each shard of URLs. Raise InputError if the select stage has not finished."""
    listed = manifest.read_json(urls / URLS_MANIFEST)
    if listed is None:
        raise InputError(f"{urls} holds no list of shards ({URLS_MANIFEST}); run stage=select (or stage=all) first")
    digits = len(str(max([config.shard_rows, *(shard["rows"] for shard in listed["shards"])]) - 1))
    return [
        ShardJob(
            number=number,
            rows=shard["rows"],
            urls=str(urls / shard["name"]),
            input=shard["sha256"],
            folder=str(image_shards.shard_folder(folder, number)),
            key_digits=digits,
            config=config,
            inputs=inputs,
        )
        for number, shard in enumerate(listed["shards"])
    ]


def _shards_to_download(jobs: list[ShardJob], round_number: int) -> list[tuple[ShardJob, int]]:
    """Return the shards that have work in a round, each with the number of rows to download.

    Raise InputError if a shard was made from other rows or with other settings.
    """
    todo = []
    for job in jobs:
        shard = manifest.read_json(Path(job.folder) / manifest.NAME)
        if shard is None:
            todo.append((job, job.rows))
            continue
        download_shard.check_origin(job, shard)
        rows = sum(count for reason, count in shard["failed"].items() if statuses.may_pass(reason))
        if shard["passes"] < round_number and rows:
            todo.append((job, rows))
    return todo


def _run_round(
    round_number: int,
    jobs: list[ShardJob],
    todo: list[tuple[ShardJob, int]],
    folder: Path,
    blocked: ray.ObjectRef | None,
) -> None:
    """Run one round over its shards, with a progress bar. Only sums are kept in memory: there may be 28,000 shards."""
    config = jobs[0].config
    task = download_shard.download_round.options(resources=tasks.resources_of_nodes(config.node_resource))
    calls = (lambda job=job: task.remote(job, round_number, blocked) for job, _ in todo)
    rows = sum(rows for _, rows in todo)
    done = sum(job.rows for job in jobs) - rows if round_number == 1 else 0
    label = "download" if round_number == 1 else f"download, round {round_number}"
    attempted = arrived = 0
    running = tasks.run(
        calls, folder, lambda: config.shards_in_flight or tasks.default_concurrency(config.node_resource)
    )
    with tasks.progress_bar(label, done + rows, "rows", done) as bar, closing(running) as results:
        for num_rows, num_images in results:
            attempted, arrived = attempted + num_rows, arrived + num_images
            speed = arrived / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{arrived / max(attempted, 1):.1%} arrived, {speed:.1f} images/s", refresh=False)
            bar.update(num_rows)


def _sum_of_shards(folder: Path, num_shards: int) -> dict[str, Any]:
    """Return the sums of the shards' counters, and a digest of all their images."""
    total: Counter[str] = Counter()
    by_name: dict[str, Counter[str]] = {name: Counter() for name in SUMMED_BY_NAME}
    for number in range(num_shards):
        shard = image_shards.read_manifest(folder, number)
        assert shard is not None, f"image shard {number} has disappeared"
        total.update({name: shard[name] for name in SUMMED})
        for name, counts in by_name.items():
            counts.update(shard[name])
    summed = {name: dict(sorted(counts.items())) for name, counts in by_name.items()}
    return {
        "shards": num_shards,
        **{name: total[name] for name in SUMMED},
        **summed,
        "content": manifest.fingerprint([image_shards.fingerprint(folder, number) for number in range(num_shards)]),
    }
