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

    Raises InputError if its file cannot be read or is empty, or if an endpoint for other machines has no key.
    """
    key, file = os.environ.get(API_KEY_VARIABLE, ""), config.access.api_key_file
    if file is not None:
        try:
            key = Path(file).read_text()
        except OSError as error:
            raise InputError(f"access.api_key_file={file}: {error.strerror}") from None
        if not key.strip():
            raise InputError(f"access.api_key_file={file} is empty: write the key into it")
    if not key.strip() and not is_loopback(config.host):
        raise InputError(
            f"host={config.host} is open to other machines: set {API_KEY_VARIABLE} to the key that clients must send, "
            "or name its file as access.api_key_file"
        )
    return hashlib.sha256(key.strip().encode()).hexdigest() if key.strip() else None


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
        if config.checkpoint.count("/") == 1 and not config.checkpoint.startswith((".", "/")):
            return config
        raise InputError(f"checkpoint={config.checkpoint}: no such folder")
    from emage.model import checkpoint  # loads PyTorch

    checkpoint.check(folder)
    return replace(config, checkpoint=str(folder.resolve()))
