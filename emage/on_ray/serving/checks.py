"""Checks before an endpoint starts: its port, its API key, its safety hook, its checkpoint."""

import hashlib
import importlib
import inspect
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from emage.config import ServeConfig
from emage.model import hub
from emage.serving.http.auth import is_loopback
from emage.serving.service import SafetyHook
from emage.utils.errors import InputError

API_KEY_VARIABLE = "EMAGE_API_KEY"  # environment variable
MIN_KEY_CHARACTERS = 16
MAX_KEY_BYTES = 4_096  # a request's header must hold it
OPEN_MODE = 0o027  # permission bits that a key's file must not have: its group may read it, others nothing
HOW_TO_MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


def check_port(host: str, port: int) -> None:
    """Raise InputError if this machine cannot listen on host:port."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}): choose another port=") from None


def read_key_sha256(config: ServeConfig) -> str | None:
    """Read the API key and return its sha256; None without a key. Only the sha256 goes to the cluster.

    Raises InputError if its file cannot be read or is open to other users, if the key is easily guessed or fits into no
    header, or if an endpoint for other machines has none.
    """
    key, source = os.environ.get(API_KEY_VARIABLE, ""), API_KEY_VARIABLE
    if config.access.api_key_file is not None:
        source = f"access.api_key_file={config.access.api_key_file}"
        key = _read_key_file(Path(config.access.api_key_file), source)
    key = key.strip()
    if not key and not is_loopback(config.host):
        raise InputError(
            f"host={config.host} is open to other machines: set {API_KEY_VARIABLE} to the key that clients must send, "
            "or name its file as access.api_key_file"
        )
    if not key:
        return None
    if len(key) < MIN_KEY_CHARACTERS or len(set(key)) < MIN_KEY_CHARACTERS // 2:
        raise InputError(
            f"{source}: the key is easily guessed: it needs {MIN_KEY_CHARACTERS} characters or more, half of them "
            f"different ({HOW_TO_MAKE_A_KEY})"
        )
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= MAX_KEY_BYTES):
        raise InputError(f"{source}: the key must be one line of letters, digits and signs of ASCII, without spaces")
    return hashlib.sha256(key.encode()).hexdigest()


def _read_key_file(path: Path, source: str) -> str:
    """Return the text of a key's file. Raises InputError."""
    try:
        if path.stat().st_mode & OPEN_MODE:
            raise InputError(f"{source}: other users may read or change it: chmod 600 {path}")
        with open(path) as file:
            key = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: it is no text") from None
    if not key.strip():
        raise InputError(f"{source} is empty: write the key into it")
    return key


def load_safety(name: str | None) -> SafetyHook | None:
    """Return the function `name` (module:function), imported; None if the name is None. Raises InputError."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        hook: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"access.safety={name} is not a module:function ({error})") from None
    if not inspect.isroutine(hook):
        raise InputError(f"access.safety={name} is not a function")
    return hook


def resolve_checkpoint(config: ServeConfig) -> ServeConfig:
    """Return the config with the checkpoint folder's absolute path; a hub id stays, since the replica downloads it.

    Raises InputError if the folder does not exist, is not a checkpoint or is a damaged one.
    """
    folder = hub.local(config.checkpoint)
    if folder is None:
        if hub.is_hub_id(config.checkpoint):
            return config
        raise InputError(f"checkpoint={config.checkpoint}: no such folder")
    from emage.model import checkpoint  # loads PyTorch

    checkpoint.check(folder)
    return replace(config, checkpoint=str(folder.resolve()))
