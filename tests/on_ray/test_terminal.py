"""The terminal of a program on Ray: lines that need no action are not shown, all others are."""

import logging
import os
import subprocess
import sys

import pytest
from ray._private.authentication import authentication_token_setup
from ray._private.ray_logging import LogDeduplicator

from emage.on_ray import QUIET_LINES, launch

QUIET = [
    "[Gloo] Rank 0 is connected to 0 peer ranks. Expected number of connected peer ranks is : 0",
    "Task ServeController.graceful_shutdown failed. There are infinite retries remaining, so the task will be retried.",
]
SHOWN = [
    "[Gloo] Rank 1 lost its connection",
    "Task ServeController.deploy failed. There are infinite retries remaining",
    "12 steps were skipped",
]
SCRIPT = f"""
from emage.on_ray import launch  # first, as in every program
import time
import ray
from ray import serve

def main():
    launch.start_ray()

    @ray.remote
    def say():
        for line in {[QUIET[0], *SHOWN]!r}:
            print(line)

    ray.get(say.remote())
    serve.start(http_options={{"location": "NoServer"}}, logging_config={{"log_level": "WARNING"}})
    serve.shutdown()
    time.sleep(5)

main()
"""


def test_only_lines_that_need_no_action_are_skipped() -> None:
    assert os.environ[QUIET_LINES[0]] == QUIET_LINES[1]
    batch = {"ip": "", "pid": "1", "lines": [*QUIET, *SHOWN], "is_err": False, "job": "", "actor_name": None}
    shown = [line for part in LogDeduplicator(5, None, QUIET_LINES[1]).deduplicate(batch) for line in part["lines"]]
    assert shown == SHOWN


def test_rays_line_about_its_token_is_not_shown_and_its_warning_is(caplog: pytest.LogCaptureFixture) -> None:
    launch.quieten_ray()
    with caplog.at_level(logging.WARNING):
        authentication_token_setup._warn_token_auth_enabled()
        authentication_token_setup._warn_token_auth_disabled()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Token authentication is disabled")


@pytest.mark.faults
def test_the_terminal_of_a_program() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in (QUIET_LINES[0], "RAY_ADDRESS")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, env=environment)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    for line in SHOWN:
        assert line in text
    for words in ("is connected to", "Token authentication", "graceful_shutdown"):
        assert words not in text
