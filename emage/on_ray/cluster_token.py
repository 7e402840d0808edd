"""The token of a Ray cluster: a client that reaches the cluster's ports and has it can run any code."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

DEFAULT_FILE = "~/.ray/auth_token"  # where Ray looks if no variable names a file
ASK_TIMEOUT_S = 60.0  # for the start of a process that imports Ray, on a busy machine


def make_private() -> None:
    """Make sure that this user has a token that no other user can read, before Ray starts a cluster here.

    Ray 2.60.0 writes one that every user of the machine can read. A token of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is
    left as it is.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    file = Path(DEFAULT_FILE).expanduser()
    try:
        if exposed_file():
            file.chmod(0o600)
        if not file.is_file() or not file.stat().st_size:
            _create(file)
    except OSError:  # a home folder that is not this user's, or that cannot be written: a token for this process
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def exposed_file() -> Path | None:
    """Return the file of the token that this process uses if other users of the machine can read it, else None."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return None
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or DEFAULT_FILE).expanduser()
    return file if file.is_file() and file.stat().st_mode & 0o077 else None


def is_required(gcs_address: str) -> bool:
    """Return whether a cluster rejects a client without the token.

    Args:
        gcs_address: host:port of a cluster that this process has joined.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", gcs_address]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_TOKEN")}
    environment["RAY_AUTH_MODE"] = "disabled"
    asked = subprocess.run(command, env=environment, capture_output=True, timeout=ASK_TIMEOUT_S, check=False)
    return asked.returncode != 0


def _create(file: Path) -> None:
    """Write a new token; one that another process wrote meanwhile stays."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secrets.token_hex(32))
    try:
        if file.is_file() and not file.stat().st_size:  # Ray takes an empty one for none
            file.unlink()
        os.link(new, file)
    except FileExistsError:
        pass
    finally:
        new.unlink()
