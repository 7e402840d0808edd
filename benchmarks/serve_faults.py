"""Part of benchmarks/serve.py: memory over many requests, and recovery after the kill of a process."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from serve_bench import Bench, bar
from serve_client import Answer, Ask, ask, closed_loops, stream
from serve_program import megabytes, processes

from emage.utils.errors import InputError

KILLED_DEPLOYMENTS = ("Model", "Frontend")
WARM_UP = 200  # first requests of the memory part, not counted
FLAT_MB = 5.0  # growth per 1,000 requests up to which memory counts as constant


# --- Memory -----------------------------------------------------------------------------------------------------------


def memory(bench: Bench) -> dict[str, Any]:
    """Return megabytes of each kind of process over the requests, and their growth per 1,000 requests."""
    answers, samples = asyncio.run(watch_memory(bench))
    counts = np.array([count for count, _ in samples])
    rows: dict[str, dict[str, float]] = {}
    for name in samples[-1][1]:
        rss, uss, pss = np.array([sample.get(name, (np.nan,) * 3) for _, sample in samples]).T
        growth = {"uss_mb_per_1000": slope(counts, uss, WARM_UP), "rss_mb_per_1000": slope(counts, rss, WARM_UP)}
        rows[name] = {"rss_mb": rss[-1], "uss_mb": uss[-1], "pss_mb": pss[-1], **growth}
    total = sum(row["uss_mb_per_1000"] for name, row in rows.items() if name != "rest of Ray")
    found = {"requests": len(answers), "uss_mb_per_1000": total, "flat": bool(total < FLAT_MB), "processes": rows}
    found["outcomes"] = dict(Counter(answer.outcome for answer in answers))
    found["samples"] = [(count, {name: round(mb[1], 1) for name, mb in sample.items()}) for count, sample in samples]
    show_memory(found)
    return found


async def watch_memory(bench: Bench) -> tuple[list[Answer], list[tuple[int, dict[str, tuple[float, ...]]]]]:
    """Return all answers, and a sample per second: number of answers and megabytes of the processes."""
    count, samples = itertools.count(1), [(0, megabytes(bench.server))]
    limits = {"clients": 8, "seconds": 900, "deadline_s": bench.deadline_s}
    last = time.monotonic()

    def moved() -> None:
        nonlocal last
        progress()
        done = next(count)
        if time.monotonic() - last > 1 or done == bench.settings.requests:
            samples.append((done, megabytes(bench.server)))
            last = time.monotonic()

    with bar("memory", bench.settings.requests) as progress:
        numbers = range(bench.settings.requests)
        return await closed_loops(bench.url, mixed(bench), numbers, moved=moved, **limits), samples


def mixed(bench: Bench) -> Ask:
    """Return a function that sends requests of all kinds in turn, half of them plain ones."""

    async def ask_for(session: aiohttp.ClientSession, number: int) -> Answer:
        body = bench.body(number)
        match number % 8:
            case 0:
                return await ask(session, number, {**body, "n": 3})
            case 2:
                return await stream(session, number, body, leave=False)
            case 4:
                return await ask(session, number, {**body, "steps": 0})
            case 6:
                return await stream(session, number, body, leave=True)
        return await ask(session, number, body)

    return ask_for


def slope(counts: np.ndarray, values: np.ndarray, warm_up: int) -> float:
    """Return the slope per 1,000 counts of a line through the values after the warm-up; 0 if there are too few."""
    late = (counts >= warm_up) & np.isfinite(values)
    if late.sum() < 3:
        return 0.0
    return float(np.polyfit(counts[late] / 1e3, values[late], 1)[0])


def show_memory(found: dict[str, Any]) -> None:
    verdict = f"{found['uss_mb_per_1000']:+.1f} MB per 1,000, {'constant' if found['flat'] else 'growing'}"
    columns = ("RSS MB", "USS MB", "PSS MB", "USS per 1,000", "RSS per 1,000")
    table = Table("process", *columns, title=f"{found['requests']} requests: {verdict} (USS, without the rest of Ray)")
    for name, row in found["processes"].items():
        now = (f"{row[unit]:.0f}" for unit in ("rss_mb", "uss_mb", "pss_mb"))
        table.add_row(name, *now, f"{row['uss_mb_per_1000']:+.2f}", f"{row['rss_mb_per_1000']:+.2f}")
    Console().print(table)
    print(", ".join(f"{count} x {what}" for what, count in found["outcomes"].items()))


# --- Kill -------------------------------------------------------------------------------------------------------------


def kill(bench: Bench) -> dict[str, Any]:
    """Return by deployment: outcomes of the requests, time until the next image, and whether it has recovered."""
    running = processes(bench.server)
    if KILLED_DEPLOYMENTS[0] not in running:
        raise InputError(f"no process of {KILLED_DEPLOYMENTS[0]} is running, only {', '.join(running)}")
    found = {}
    for name in KILLED_DEPLOYMENTS:
        if name in running:
            answers, killed = asyncio.run(kill_under_load(bench, running[name][0]))
            found[name] = {**outcomes_after(answers, killed), "whole_again": asyncio.run(has_recovered(bench))}
            show_outcomes(name, found[name])
    return found


async def kill_under_load(bench: Bench, process: psutil.Process) -> tuple[list[Answer], float]:
    """Kill the process while clients send requests; return all answers, and the time of the kill."""

    async def kill_later() -> float:
        await asyncio.sleep(bench.settings.load_s / 4)
        process.kill()
        return time.perf_counter()

    killing = asyncio.create_task(kill_later())
    limits = {"clients": 8, "seconds": bench.settings.load_s, "deadline_s": bench.deadline_s}
    answers = await closed_loops(bench.url, bench.ask, itertools.count(), **limits)
    return answers, await killing


def outcomes_after(answers: Sequence[Answer], killed: float) -> dict[str, Any]:
    """Return the outcomes of requests that were under way at the kill, and of those sent later."""
    under_way = [answer for answer in answers if answer.started <= killed < answer.started + answer.seconds]
    later = [answer for answer in answers if answer.started > killed]
    images = [answer.started + answer.seconds - killed for answer in later if answer.outcome == "200"]
    return {
        "answers": len(answers),
        "under way": dict(Counter(answer.outcome for answer in under_way)),
        "later": dict(Counter(answer.outcome for answer in later)),
        "first_picture_s": min(images, default=None),
        "slowest_s": max((answer.seconds for answer in answers), default=None),
        "unclean": sum(not answer.is_clean for answer in answers),
    }


async def has_recovered(bench: Bench) -> bool:
    """Return whether each of 32 more requests, by eight clients, gets its image at the first attempt."""
    limits = {"clients": 8, "seconds": bench.deadline_s, "deadline_s": bench.deadline_s}
    answers = await closed_loops(bench.url, bench.ask, range(32), **limits)
    return [answer.outcome for answer in answers] == ["200"] * 32


def show_outcomes(name: str, found: dict[str, Any]) -> None:
    outcomes = sorted(found["under way"] | found["later"])
    table = Table("requests", *outcomes, title=f"kill -9 of {name}, {found['answers']} requests by 8 clients")
    for when in ("under way", "later"):
        table.add_row(when, *(str(found[when].get(outcome, 0)) for outcome in outcomes))
    Console().print(table)
    first = "never" if found["first_picture_s"] is None else f"{found['first_picture_s']:.1f} s"
    print(f"first image of a later request after {first}, slowest answer {found['slowest_s']:.1f} s,", end=" ")
    print("{unclean} without a clean answer, recovered: {whole_again}".format(**found))
