"""Part of benchmarks/serve.py: latency and throughput, compared with the model alone."""

import asyncio
import io
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from serve_bench import Bench, bar
from serve_client import Answer, closed_loops, open_session, percentiles

from emage.utils.errors import InputError

PAUSE_S = 0.02  # between measurements: threads that have just become idle spin for a while
NUM_COMPARED = 16  # images at each level


# --- Latency ----------------------------------------------------------------------------------------------------------


def latency(bench: Bench) -> dict[str, Any]:
    """Return milliseconds of one client's requests, of direct calls, and of their differences."""
    served, direct, encoding = np.array(asyncio.run(take_turns(bench))).T * 1e3
    columns = {"a request": served, "pipe.generate": direct, "added": served - direct, "a PNG": encoding}
    found = {name: percentiles(ms) for name, ms in columns.items()}
    table = Table("ms, one client", "median", "p95", "p99", title=f"{len(served)} pairs, goal: added under 10 ms")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    Console().print(table)
    return found


async def take_turns(bench: Bench) -> list[tuple[float, float, float]]:
    """Return seconds of requests, of direct generation of the same images, and of PNG encoding, after five warm-ups."""
    pairs = []
    total = bench.settings.pairs + 5
    with bar("latency", total) as moved:
        async with open_session(bench.url, bench.deadline_s) as session:
            for number in range(total):
                await asyncio.sleep(PAUSE_S)
                answer = await bench.ask(session, number)
                if answer.outcome != "200":
                    raise InputError(f"the only client of the server got {answer.outcome}")
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
                (image,) = bench.generate([number])
                generated = time.perf_counter()
                image.save(io.BytesIO(), "PNG")
                pairs.append((answer.seconds, generated - started, time.perf_counter() - generated))
                moved()
    return pairs[5:]


# --- Throughput -------------------------------------------------------------------------------------------------------


def throughput(bench: Bench) -> dict[str, Any]:
    """Return the measurements of each level, of direct generation between them, and the best ratio."""
    before, rates = torch.get_num_threads(), rates_by_threads(bench)
    fastest = max(rates, key=rates.__getitem__)
    offline, levels, sample = [offline_rate(bench, fastest)], list[dict[str, Any]](), list[Answer]()
    for clients in bench.settings.clients:
        answers, found = level(bench, clients)
        offline.append(offline_rate(bench, fastest))
        levels.append({**found, "ratio": found["pictures_per_s"] / statistics.mean(offline[-2:])})
        generated = [answer for answer in answers if answer.png]
        sample += generated[:: max(1, len(generated) // NUM_COMPARED)][:NUM_COMPARED]
    best = max(row["ratio"] for row in levels)
    found = {"levels": levels, "offline_pictures_per_s": offline, "offline_threads": fastest, "best_ratio": best}
    found["replica_threads"], found["offline_replica_threads_per_s"] = before, offline_rate(bench, before)
    found |= {"offline_by_threads": rates, **compare(bench, sample)}
    show_levels(found)
    return found


def rates_by_threads(bench: Bench) -> dict[int, float]:
    """Return images/s of direct generation of a few full batches by number of threads: more are not always faster."""
    numbers, rates = range(4 * bench.config.max_batch_size), {}
    for threads in sorted({1, torch.get_num_threads(), os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        bench.generate(numbers[: bench.config.max_batch_size])
        started = time.perf_counter()
        bench.generate(numbers)
        rates[threads] = len(numbers) / (time.perf_counter() - started)
    return rates


def offline_rate(bench: Bench, threads: int) -> float:
    """Return images/s of `pipe.generate` in full batches, while the server is idle."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    bench.generate(range(bench.settings.pictures))
    return bench.settings.pictures / (time.perf_counter() - started)


def level(bench: Bench, clients: int) -> tuple[list[Answer], dict[str, Any]]:
    """Return all answers of a level, and their summary."""
    total = max(bench.settings.pictures, 4 * clients)
    limits = {"clients": clients, "seconds": bench.settings.level_s, "deadline_s": bench.deadline_s}
    started, own = time.perf_counter(), time.process_time()
    with bar(f"{clients} clients", total) as moved:
        answers = asyncio.run(closed_loops(bench.url, bench.ask, range(total), moved=moved, **limits))
    seconds, own = time.perf_counter() - started, time.process_time() - own
    return answers, {**summary(answers, seconds), "clients": clients, "client_cpu_ms": own * 1e3 / len(answers)}


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Return the summary. Percentiles are of successful requests, from the last attempt to the answer."""
    generated = [answer.seconds * 1e3 for answer in answers if answer.outcome == "200"]
    outcomes = dict(Counter(answer.outcome for answer in answers))
    return {
        "pictures_per_s": len(generated) / seconds,
        "seconds": seconds,
        "ms": percentiles(generated),
        "outcomes": outcomes,
    }


def compare(bench: Bench, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return how many of the answers equal, in every pixel, the images that the model generates alone."""
    differences = []
    for answer in answers:
        served = np.asarray(Image.open(io.BytesIO(answer.png or b""))).astype(int)
        differences.append(int(np.abs(served - np.asarray(bench.generate([answer.number])[0])).max()))
    return {
        "compared": len(differences),
        "equal": differences.count(0),
        "largest_difference": max(differences, default=0),
    }


def show_levels(found: dict[str, Any]) -> None:
    offline = statistics.mean(found["offline_pictures_per_s"])
    title = f"offline {offline:.1f} images/s; best ratio {found['best_ratio']:.2f}, goal 0.9"
    table = Table("clients", "images/s", "of offline", "p50 ms", "p95 ms", "p99 ms", "answers", title=title)
    for row in found["levels"]:
        ms = (f"{value:,.0f}" if value else "" for value in row["ms"].values())
        outcomes_text = ", ".join(f"{count} x {what}" for what, count in row["outcomes"].items())
        table.add_row(str(row["clients"]), f"{row['pictures_per_s']:.1f}", f"{row['ratio']:.2f}", *ms, outcomes_text)
    Console().print(table)
    threads = ", ".join(f"{count}: {rate:.1f}" for count, rate in found["offline_by_threads"].items())
    print("{equal} of {compared} answers equal the model's own images in every pixel; ".format(**found), end="")
    rates = found["offline_pictures_per_s"]
    print(f"offline by threads {threads}; its fastest run / its slowest {max(rates) / min(rates):.2f}")
    served = max(row["pictures_per_s"] for row in found["levels"])
    equal = found["offline_replica_threads_per_s"]
    count = found["replica_threads"]
    print(f"offline by as many threads as a replica has ({count}): {equal:.1f} images/s, ratio {served / equal:.2f}")
