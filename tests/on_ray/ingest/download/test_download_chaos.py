"""The download stage alone when a worker is killed, and when the disk is full."""

import os
import signal
import subprocess
from dataclasses import replace

import psutil
import pytest
import web
from PIL import Image
from shards_of_urls import arrived, write_urls
from small_download import BUSY, CONFIG, GREY
from web import encode

from emage.on_ray.ingest.download import download_stage
from emage.utils.errors import InputError

pytestmark = [pytest.mark.faults, pytest.mark.ray]


@pytest.mark.parametrize("before", [0, 1], ids=["first round", "retry round"])
def test_a_killed_worker_drops_no_row_and_doubles_none(ray_cluster, site, tmp_path, before):
    pages, address = site
    killed: list[int] = []

    def kill(handler) -> None:
        port = handler.client_address[1]
        ours = (None, os.getpid())  # None: the end of a connection that is closed already
        (worker,) = {c.pid for c in psutil.net_connections("tcp4") if c.laddr.port == port and c.pid not in ours}
        killed.append(worker)
        os.kill(worker, signal.SIGKILL)

    pages |= {f"/{i}": web.in_turn(BUSY, GREY) if i % 3 == 0 else GREY for i in range(60)}
    pages["/30"] = web.in_turn(*[BUSY] * before, kill, GREY)
    urls = write_urls(tmp_path / "urls", *([f"{address}/{i}" for i in range(20 * n, 20 * n + 20)] for n in range(3)))
    shards = tmp_path / "shards"
    values = download_stage.run(CONFIG, urls, shards)
    assert len(killed) == 1
    assert (values["written"], values["failed"]) == (60, {})
    rows = arrived(shards)
    assert sorted(row["url"] for row in rows) == sorted(f"{address}/{i}" for i in range(60))
    assert len({row["key"] for row in rows}) == 60
    assert not list(shards.glob(".*"))


def test_a_full_disk_is_one_line_and_the_same_command_resumes(ray_cluster, site, tmp_path):
    pages, address = site
    pages |= {f"/{i}": encode(Image.effect_noise((64, 64), 90).convert("RGB"), "BMP") for i in range(100)}
    urls = write_urls(tmp_path / "urls", *([f"{address}/{i}" for i in range(100)] for _ in range(2)))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(InputError, match=r"the disk is full; free some space, and run the same command again$"):
            download_stage.run(replace(CONFIG, image_size=64), urls, disk / "shards")
        assert not list((disk / "shards").glob(".*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert download_stage.run(replace(CONFIG, image_size=64), urls, disk / "shards")["written"] == 200
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
