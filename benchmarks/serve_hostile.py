"""Honest clients among thousands of hostile ones: what they wait, and what memory is left afterwards.

    python benchmarks/serve_hostile.py parts=[load]                   # 5,000 connections; four minutes on two cores
    python benchmarks/serve_hostile.py parts=[load] hostile=500 honest=10     # a smaller load
    python benchmarks/serve_hostile.py parts=[parser]                 # one minute

Starts pipelines/serve.py as a user does, with the shipped model on a CPU. All is on this machine.
- load: the honest clients send a request each, all at once, again and again for `seconds`: first alone, then while the
  hostile connections are open. There are equal numbers of each kind: silent; a letter of a header each second; a header
  without an end; a JSON body of 15 MB with a million keys, half of them in chunks. One that the server ends is made
  again after five seconds. They run in a process of a low priority (`niceness`), since they share the cores with the
  server here and would not elsewhere. The server's memory (USS) is compared before the load and after it, once all its
  time limits have passed. `holds` says whether every honest client got its image, none of them later than twice the
  slowest of the quiet time, and whether memory grew by less than 50 MB; the program ends with 1 if one does not.
- parser: requests per second of uvicorn with a trivial application and the parser with limits, in turns with uvicorn's
  default, httptools: the ratio of the medians of `rounds` runs.
Prints the figures and writes results/serve_hostile.json; a part that did not run keeps its figures of before.
"""

import asyncio
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import results_file
import serve_parser
from serve import machine
from serve_client import Answer, ask, open_session
from serve_hostile_clients import hostile_clients
from serve_program import arguments, megabytes, serving

from emage import config
from emage.config import ServeConfig, cli
from emage.config.fields import setting
from emage.serving.limits import ANSWER_TIMEOUT_S, HEADER_TIMEOUT_S
from emage.utils.errors import InputError, exit_on_bad_input

PARTS = ("load", "parser")
RESTS_S = HEADER_TIMEOUT_S + ANSWER_TIMEOUT_S  # until the server has forgotten the last hostile client
MAX_RATIO = 2.0  # of the slowest honest client's time, to that of the quiet time
MAX_GROWTH_MB = 50.0
OWN_PROCESSES = ("proxy", "Frontend", "Model")


@dataclass(frozen=True)
class HostileBenchmark:
    """Honest clients among hostile connections, and the speed of the HTTP parser."""

    parts: tuple[str, ...] = setting(PARTS, "Parts to run.", choices=PARTS)
    hostile: int = setting(5_000, "Hostile connections at a time.", unit="connections", minimum=4)
    honest: int = setting(50, "Honest clients.", unit="clients", minimum=1)
    seconds: float = setting(30.0, "Duration of the load, and of the same requests without it.", unit="s", above=0)
    niceness: int = setting(10, "Niceness of the hostile clients' process.", minimum=0, maximum=19)
    rounds: int = setting(5, "Runs of each parser.", unit="runs", minimum=1)
    steps: int = setting(16, "Decoding steps of an image.", unit="steps", minimum=1)
    requests: int = setting(4_000, "Requests of each run of a parser.", unit="requests", minimum=1)
    results: str = setting(str(Path(__file__).with_name("results") / "serve_hostile.json"), "File for the results.")


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        settings = cli.parse(HostileBenchmark, argv)
        path = Path(settings.results)
        record = results_file.read(path) | (here := machine(threads=1))
        for part in settings.parts:
            found = load(settings) if part == "load" else serve_parser.compare(settings.rounds, settings.requests)
            record[part] = {"commit": here["commit"], **found}
            print(part, record[part])
        results_file.write(path, record)
    if "load" in settings.parts and (broken := [what for what, holds in record["load"]["holds"].items() if not holds]):
        sys.exit(f"does not hold: {', '.join(broken)}")


def load(settings: HostileBenchmark) -> dict[str, Any]:
    """Return the seconds of the honest clients without and with hostile ones, and the memory before and after."""
    _check_open_files(settings.hostile + 500)
    command = arguments("demo", {"max_queued": max(128, settings.honest), "timeout_s": 300})
    port = config.parse(ServeConfig, command).port
    with tempfile.TemporaryDirectory() as folder, serving(command, port, Path(folder)) as (url, process):
        server = psutil.Process(process.pid)
        asyncio.run(honest_clients(url, replace(settings, seconds=0.1)))  # warm-up
        quiet = asyncio.run(honest_clients(url, settings))
        before = _own_megabytes(server)
        with hostile_clients(port, settings.hostile, settings.niceness) as ended:
            started = time.monotonic()
            hostile = asyncio.run(honest_clients(url, settings))
            seconds = time.monotonic() - started
            during = _own_megabytes(server)
        time.sleep(RESTS_S)
        after = _own_megabytes(server)
        again = asyncio.run(honest_clients(url, replace(settings, seconds=0.1)))
    slowest = {
        name: max(answer.seconds for answer in answers) for name, answers in (("quiet", quiet), ("hostile", hostile))
    }
    ratio, growth = slowest["hostile"] / slowest["quiet"], sum(after.values()) - sum(before.values())
    return {
        "hostile": settings.hostile,
        "honest": settings.honest,
        "niceness": settings.niceness,
        "holds": {
            "all honest clients got their images": all(answer.outcome == "200" for answer in hostile + again),
            f"none later than {MAX_RATIO:g} times the quiet time": ratio <= MAX_RATIO,
            f"memory grew by less than {MAX_GROWTH_MB:g} MB": growth < MAX_GROWTH_MB,
        },
        "outcomes": dict(Counter(answer.outcome for answer in hostile)),
        "outcomes_quiet": dict(Counter(answer.outcome for answer in quiet)),
        "outcomes_afterwards": dict(Counter(answer.outcome for answer in again)),
        "slowest_s": slowest,
        "median_s": {
            "quiet": statistics.median(answer.seconds for answer in quiet),
            "hostile": statistics.median(answer.seconds for answer in hostile),
        },
        "slowest_ratio": ratio,
        "load_s": seconds,
        "hostile_connections": dict(ended),
        "mb_before": before,
        "mb_during": during,
        "mb_after": after,
        "mb_growth": growth,
    }


async def honest_clients(url: str, settings: HostileBenchmark) -> list[Answer]:
    """Return the answers of all honest clients; each opens a connection of its own for every request."""
    numbers = itertools.count()

    async def one() -> Answer:
        number = next(numbers)
        body = {"prompt": "a small red circle above a large blue square", "seed": number, "steps": settings.steps}
        async with open_session(url, 300) as session:
            return await ask(session, number, body)

    answers: list[Answer] = []
    ends = time.monotonic() + settings.seconds
    while time.monotonic() < ends:
        answers += await asyncio.gather(*(one() for _ in range(settings.honest)))
    return answers


def _own_megabytes(server: psutil.Process) -> dict[str, float]:
    """Return USS in megabytes of the processes that clients can reach."""
    found = megabytes(server)
    return {name: round(found[name][1], 1) for name in OWN_PROCESSES}


def _check_open_files(wanted: int) -> None:
    """Raise this process's limit of open files. Raise InputError if the system allows too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(f"hostile= needs {wanted} open files and this system allows {hard} (ulimit -Hn): lower it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
