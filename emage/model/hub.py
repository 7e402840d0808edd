"""Checkpoints on the Hugging Face hub. Only this file uses huggingface_hub's client and interprets its errors.

find(...)       the folder of a checkpoint: a local one, a shipped one ("demo"), or one on the hub
download(...)   the files of a checkpoint, from the hub or from its cache on this machine
create(...)     the repository, if it does not exist; a missing login is noticed here
upload(...)     a folder as one commit: a concurrent download gets the old model or the new one
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emage.model.checkpoint import MODEL, TOKENIZER
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.version import __version__

SHIPPED = Path(__file__).parent / "pretrained"  # one folder per name
FILES = (manifest.NAME, "config.yaml", TOKENIZER, MODEL)
LOGIN = "log in with `hf auth login`, or pass token=..."


def find(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder of a checkpoint: what `local` finds, or the hub's. Raise InputError as `download` does."""
    if folder := local(path_or_hub_id):
        return folder
    fetched = download(
        str(path_or_hub_id), revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    return Path(fetched)


def local(path_or_name: str | Path) -> Path | None:
    """Return the folder at this path, or the shipped one of this name; None if there is neither."""
    if Path(path_or_name).exists():
        return Path(path_or_name)
    return next((folder for folder in SHIPPED.iterdir() if folder.name == str(path_or_name)), None)


def is_hub_id(name: str) -> bool:
    """Return whether a name that is no folder here may be one on the hub: user/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> str:
    """Return the folder of a checkpoint in the hub's cache, downloaded if necessary. May raise InputError."""
    from huggingface_hub import hf_hub_download

    if not is_hub_id(repo_id):
        shipped = ", ".join(sorted(folder.name for folder in SHIPPED.iterdir()))
        raise InputError(f"{repo_id} is neither a checkpoint folder nor a hub id (user/name); shipped: {shipped}")
    client: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    client |= {"library_name": "emage", "library_version": __version__}
    with _as_input_error(f"{repo_id} is not a folder here, and on the hub: ", revision):
        # The manifest is first: another kind of model is not downloaded to find that out, and the other files come
        # from the commit that the manifest belongs to. (snapshot_download would take a folder with the manifest alone
        # for the whole model while the hub cannot list its files.)
        folder = Path(hf_hub_download(repo_id, FILES[0], revision=revision, **client)).parent
        for name in FILES[1:]:
            hf_hub_download(repo_id, name, revision=folder.name, **client)
    return str(folder)


def create(repo_id: str, *, private: bool | None, token: str | bool | None, revision: str | None) -> str:
    """Create the repository and the branch `revision` if missing; return the full id. May raise InputError."""
    with _as_input_error(f"{repo_id} on the hub: ", revision):
        full = _api(token).create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            _api(token).create_branch(full, branch=revision, exist_ok=True)
    return full


def upload(
    folder: str | Path, repo_id: str, *, token: str | bool | None, commit_message: str, revision: str | None
) -> str:
    """Upload the files of `folder` in one commit; return the commit's URL. Raise InputError if that fails."""
    from huggingface_hub import CommitOperationAdd

    # Not upload_folder: it may split a folder into several commits.
    files = [CommitOperationAdd(file.name, file) for file in sorted(Path(folder).iterdir())]
    with _as_input_error(f"{repo_id} on the hub: ", revision):
        return _api(token).create_commit(repo_id, files, commit_message=commit_message, revision=revision).commit_url


def _api(token: str | bool | None):
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="emage", library_version=__version__)


# --- Errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def _as_input_error(prefix: str, revision: str | None) -> Iterator[None]:
    """Raise an InputError, `prefix` and the reason, instead of the client's errors."""
    from huggingface_hub.errors import HTTPError  # also the base of what the HTTP library below it raises

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise InputError(prefix + _reason(error, revision)) from None


def _reason(error: BaseException, revision: str | None) -> str:
    from huggingface_hub import errors

    # The client's "not on this disk" and "error while uploading" have the actual error as their cause.
    if isinstance(error, errors.LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        error = error.__cause__
    match error:
        case errors.GatedRepoError():
            return f"its owner grants access one by one; ask for it on its page, then {LOGIN}"
        case errors.RepositoryNotFoundError():
            return f"no such model, or it is private: check the name, or {LOGIN}"
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return "this machine's cache does not have all of its files, and downloading is switched off"
        case errors.EntryNotFoundError():
            return f"it is not an Emage model (one has {', '.join(FILES)})"
        case errors.HfHubHTTPError():
            return _status(error.response.status_code, error.server_message)
        case errors.HFValidationError():
            return "not a hub id (user/name)"
        case errors.HTTPError():
            return f"unreachable ({type(error).__name__}: {_flat(str(error))})"
    return f"{type(error).__name__}: {_flat(str(error))}"


def _status(code: int, message: str | None) -> str:
    if code == 401:
        return f"your login is missing or not valid: {LOGIN}"
    if code == 403:
        return "your token does not allow this: make one that may write to it"
    reason = f" ({_flat(message)})" if message else ""
    return f"the hub answered {code}{reason}" + ("; try again later" if code >= 500 or code == 429 else "")


def _flat(text: str) -> str:
    """Return a message on one line, shortened: it may be a page of HTML."""
    return " ".join(text.split())[:300]
