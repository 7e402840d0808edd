"""The download stage alone: retry rounds, a network with broken DNS, block lists."""

import hashlib
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import web
from PIL import Image
from shards_of_urls import arrived, write_urls
from small_download import BUSY, CONFIG, GREY
from web import encode

from emage.on_ray.ingest.download import download_shard, download_stage, image_shards
from emage.utils import manifest
from emage.utils.errors import InputError


def failures(shards: Path, number: int) -> list[dict[str, Any]]:
    name = image_shards.read_manifest(shards, number)["failures"]
    return pq.read_table(image_shards.shard_folder(shards, number) / name).to_pylist()


# One round


@pytest.mark.ray
def test_rows_keep_their_order_their_data_set_and_a_key_of_their_own(ray_cluster, site, tmp_path):
    """Threads finish in any order, but the files are in the rows' order."""
    pages, address = site
    pages |= {f"/{i}.png": encode(Image.new("RGB", (16 + i, 16), (i, 0, 0))) for i in range(100)}
    good = [f"{address}/{i}.png" for i in range(100)]
    urls = write_urls(tmp_path / "urls", good, [*good[:3], f"{address}/gone", None])
    values = download_stage.run(CONFIG, urls, tmp_path / "shards")
    rows = arrived(tmp_path / "shards")
    assert [row["width"] for row in rows] == [16 + i for i in (*range(100), 0, 1, 2)]
    assert [row["key"] for row in rows] == [f"{i:07d}" for i in (*range(100), 100, 101, 102)]
    assert {row["url"]: row["caption"] for row in rows} == {url: f"image {url}" for url in good}
    assert [(row["key"], row["cause"]) for row in failures(tmp_path / "shards", 1)] == [
        ("0000103", "http_404"),
        ("0000104", "no_url"),
    ]
    assert values == {
        "shards": 2,
        "rows": 105,
        "written": 103,
        "won_back": 0,
        "failed": {"http_404": 1, "no_url": 1},
        "datasets": {"even": 52, "odd": 51},
        "passes": 2,
        "content": manifest.fingerprint([image_shards.fingerprint(tmp_path / "shards", number) for number in range(2)]),
    }
    assert values == image_shards.finished(tmp_path / "shards", rounds=2)
    assert image_shards.finished(tmp_path / "shards", rounds=3) is None


@pytest.mark.ray
def test_private_hosts_are_rejected_unless_allowed(ray_cluster, site, tmp_path):
    pages, address = site
    pages["/a.png"] = GREY
    port = address.rsplit(":", 1)[1]
    hosts = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]")
    urls = write_urls(tmp_path / "urls", [f"http://{host}:{port}/a.png" for host in hosts])
    values = download_stage.run(replace(CONFIG, allow_private_hosts=False), urls, tmp_path / "shards")
    assert values["failed"] == {"private_address": 3}
    with pytest.raises(InputError, match="was downloaded with other settings"):
        download_stage.run(CONFIG, urls, tmp_path / "shards")


@pytest.mark.ray
def test_other_rows_are_rejected(ray_cluster, site, tmp_path):
    pages, address = site
    pages["/a.png"] = GREY
    with pytest.raises(InputError, match=r"urls holds no list of shards .*; run stage=select"):
        download_stage.run(CONFIG, tmp_path / "urls", tmp_path / "shards")
    urls = write_urls(tmp_path / "urls", [f"{address}/a.png"])
    before = download_stage.run(CONFIG, urls, tmp_path / "shards")
    write_urls(tmp_path / "urls", [f"{address}/b.png"])
    with pytest.raises(InputError, match="00000 was downloaded from other rows"):
        download_stage.run(CONFIG, urls, tmp_path / "shards")
    assert image_shards.finished(tmp_path / "shards") == before  # the error changes nothing
    listed = manifest.read_json(urls / download_shard.URLS_MANIFEST)
    write_urls(urls, [f"{address}/c.png"])
    manifest.write_json(urls / download_shard.URLS_MANIFEST, listed)  # which now names another file
    with pytest.raises(InputError, match=r"00000.parquet is not the file that _manifest.json next to it lists"):
        download_stage.run(CONFIG, urls, tmp_path / "elsewhere")


@pytest.mark.ray
def test_blocked_images_are_dropped(ray_cluster, site, tmp_path):
    pages, address = site
    pages |= {f"/{i}.png": encode(Image.new("RGB", (64, 64), (i, 0, 0))) for i in range(20)}
    urls = write_urls(tmp_path / "urls", [f"{address}/{i}.png" for i in range(20)])
    digests = [hashlib.md5(pages[f"/{i}.png"]).hexdigest() for i in (3, 11)]  # type: ignore[arg-type]
    others = [f"{i:016x}" for i in (0, 1 << 40, (1 << 64) - 1)]
    blocked = np.sort(np.array([int(digest[:16], 16) for digest in digests + others], np.uint64))
    values = download_stage.run(CONFIG, urls, tmp_path / "shards", blocked)
    assert values["failed"] == {"blocked_md5": 2}
    assert {row["url"] for row in failures(tmp_path / "shards", 0)} == {f"{address}/3.png", f"{address}/11.png"}
    assert len(arrived(tmp_path / "shards")) == 18


# Too few images


@pytest.mark.ray
def test_too_few_successes_stop_the_run_and_mark_nothing(ray_cluster, site, tmp_path):
    pages, address = site
    pages["/a.png"] = GREY
    urls = write_urls(tmp_path / "urls", [f"{address}/a.png"] + ["http://no-such-host.invalid/a.png"] * 9)
    shards = tmp_path / "shards"
    with pytest.raises(InputError, match=r"shard 0: 1 of 10 images arrived.*9 failed with dns_error: the resolver"):
        download_stage.run(replace(CONFIG, min_success_rate=0.5), urls, shards)
    assert not list(shards.iterdir())
    values = download_stage.run(replace(CONFIG, min_success_rate=0.1), urls, shards)  # resumes in the same output
    assert (values["written"], values["failed"]) == (1, {"dns_error": 9})


@pytest.mark.ray
def test_after_a_stop_nothing_is_downloaded_or_written(ray_cluster, site, tmp_path):
    """The other tasks end as well, in the middle of their downloads."""
    pages, address = site
    busy, stopping = threading.Event(), threading.Event()
    requested = Counter[str]()

    def slow(handler) -> None:
        requested["slow"] += 1
        busy.set()
        stopping.wait(60)
        web.answer(GREY)(handler)  # type: ignore[operator]

    def late(handler) -> None:
        busy.wait(60)  # until the other shard is being downloaded
        handler.send_error(404)

    pages |= {"/slow": slow, "/late": late}
    urls = write_urls(tmp_path / "urls", [f"{address}/late"] * 10, [f"{address}/slow"] * 100)
    with pytest.raises(InputError, match="shard 0: 0 of 10 images arrived"):
        download_stage.run(
            replace(CONFIG, min_success_rate=0.5, shards_in_flight=2, timeout_s=60), urls, tmp_path / "shards"
        )
    before = requested["slow"]
    stopping.set()
    threading.Event().wait(1)
    assert requested["slow"] == before <= CONFIG.threads
    assert not list((tmp_path / "shards").iterdir())


# Retry rounds


@pytest.mark.ray
def test_a_retry_round_recovers_what_was_only_busy(ray_cluster, site, tmp_path):
    pages, address = site
    requested = Counter[str]()
    sequence: list[str] = []

    def counted(name: str, page: web.Page) -> web.Page:
        def count(handler) -> None:
            requested[name] += 1
            sequence.append(name)
            page(handler)  # type: ignore[operator]

        return count

    good = web.answer(GREY)
    for shard in range(3):
        pages[f"/good{shard}"] = counted("good", good)
        pages[f"/busy{shard}"] = counted("busy", web.in_turn(BUSY, good))
        pages[f"/down{shard}"] = counted("down", web.in_turn(BUSY, BUSY, good))
        pages[f"/gone{shard}"] = counted("gone", web.answer(b"", 404))
    names = ("gone", "busy", "good", "down")
    urls = write_urls(tmp_path / "urls", *([f"{address}/{name}{shard}" for name in names] for shard in range(3)))
    shards = tmp_path / "shards"
    values = download_stage.run(CONFIG, urls, shards)
    assert (values["written"], values["won_back"], values["failed"]) == (6, 3, {"http_404": 3, "http_503": 3})
    assert values["datasets"] == {"even": 3, "odd": 3}
    assert requested == {"good": 3, "gone": 3, "busy": 6, "down": 6}
    assert sorted(sequence[:12]) == sorted(names * 3)  # round 2 begins when round 1 has ended for all shards
    shard = image_shards.read_manifest(shards, 1)
    assert shard["passes"] == 2
    assert [name[:11] for name in shard["pictures"]] == ["pictures.pa", "pictures-2-"]
    assert shard["outputs"].keys() == {*shard["pictures"], shard["failures"]} and shard["failures"][:9] == "failed-2-"
    existing = {file.name for file in image_shards.shard_folder(shards, 1).iterdir()}
    assert existing == {*shard["outputs"], "manifest.json", "00001_stats.json"}
    assert [row["key"] for row in failures(shards, 1)] == ["0000100", "0000103"]
    assert sorted(row["key"] for row in arrived(shards)) == [f"{100 * i + j:07d}" for i in range(3) for j in (1, 2)]
    assert download_stage.run(CONFIG, urls, shards) == values  # once more: nothing to do
    assert requested.total() == 18
    more = download_stage.run(replace(CONFIG, passes=3), urls, shards)
    assert (more["written"], more["won_back"], more["failed"]) == (9, 6, {"http_404": 3})
    assert requested == {"good": 3, "gone": 3, "busy": 6, "down": 9}
    assert len(image_shards.image_files(shards, 1)) == 3
    assert download_stage.run(replace(CONFIG, passes=9), urls, shards)["passes"] == 9  # nothing is left to retry
    assert requested.total() == 21


@pytest.mark.ray
def test_files_of_a_killed_round_do_not_count(ray_cluster, site, tmp_path):
    pages, address = site
    pages |= {"/busy": web.in_turn(BUSY, web.answer(b"", 404)), "/good": GREY}
    urls = write_urls(tmp_path / "urls", [f"{address}/busy", f"{address}/good"])
    shards = tmp_path / "shards"
    download_stage.run(replace(CONFIG, passes=1), urls, shards)
    shard = image_shards.shard_folder(shards, 0)
    content = image_shards.fingerprint(shards, 0)
    for name in ("pictures-2.parquet", "failed-2.parquet", ".manifest.json.1a2b3c4d"):
        (shard / name).write_text("half a file")
    (shards / ".00000.deadbeef").mkdir()
    (shards / manifest.NAME).unlink()
    values = download_stage.run(CONFIG, urls, shards)
    assert (values["written"], values["failed"]) == (1, {"http_404": 1})
    failures = image_shards.read_manifest(shards, 0)["failures"]
    assert {file.name for file in shard.iterdir()} == {
        *("pictures.parquet", failures, "manifest.json", "00000_stats.json")
    }
    assert image_shards.fingerprint(shards, 0) == content  # no new images: tokenized shards stay valid
    assert not list(shards.glob(".*"))
