"""Part of benchmarks/nodes.py: the endpoint during the loss of the node with its models and HTTP processes."""

import asyncio
import itertools
import signal
import subprocess
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from nodes_cluster import Nodes, Program, simulated, wait_for, watched
from serve_client import Answer, ask, closed_loops
from serve_faults import outcomes_after
from serve_program import arguments

from emage import config
from emage.config import ServeConfig

LOAD_S, DEADLINE_S, CLIENTS = 80.0, 75.0, 4
NUM_IMAGES = 8  # different images that are requested, in turn


def serve(folder: Path) -> dict[str, Any]:
    """Return the measurements of the endpoint; see nodes.py."""
    command = arguments("demo", {"num_replicas": 2, "num_frontends": 2})
    port = config.parse(ServeConfig, command).port
    with simulated() as nodes:
        first = nodes.add(num_cpus=4)
        with Program(["serve", *command], nodes.address) as program:
            try:
                wait_for(lambda: "ready: " in program.printed, program)
                return under_load(f"http://127.0.0.1:{port}", nodes, first)
            finally:
                program.process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    program.process.wait(60)
                (folder / "serve.log").write_text(program.printed)


def under_load(url: str, nodes: Nodes, first: Any) -> dict[str, Any]:
    """Send requests; kill the node `first` and add two meanwhile; return the measurements."""

    async def ask_for(session: aiohttp.ClientSession, number: int) -> Answer:
        return await ask(session, number, {"prompt": "a small red circle", "seed": number % NUM_IMAGES})

    limits = {"clients": CLIENTS, "seconds": LOAD_S, "deadline_s": DEADLINE_S}
    with ThreadPoolExecutor(1) as thread:  # nodes may only be added and killed in the main thread
        load = thread.submit(lambda: asyncio.run(closed_loops(url, ask_for, itertools.count(), **limits)))
        time.sleep(LOAD_S / 4)
        lost = time.perf_counter()
        nodes.lose(first)
        added = [nodes.add(num_cpus=2) for _ in range(2)]
        with watched(nodes, added) as seen:
            answers = load.result()
    at_work = sum(any("ServeReplica:emage:Model" in title for title in titles) for titles in seen)
    return measurements(answers, lost) | {"new_nodes_at_work": at_work}


def measurements(answers: list[Answer], lost: float) -> dict[str, Any]:
    """Return recovery, outcomes and equality of images, of requests around the loss of the node at time `lost`."""
    found, images = outcomes_after(answers, lost), defaultdict(set)
    for answer in answers:
        images[answer.number % NUM_IMAGES] |= {answer.png} if answer.png else set()
    return {
        "recovered_s": found["first_picture_s"],
        "total": found["answers"],
        "unit": "requests",
        "done_twice": f"{found['under way'].get('200', 0)}",  # generated again by other replicas
        "without_a_picture": sum(answer.png is None for answer in answers),
        "outcomes": dict(Counter(answer.outcome for answer in answers)),
        "slowest_s": found["slowest_s"],
        "same_bytes": all(len(same) == 1 for same in images.values()),
    }
