"""Loading, saving and sharing a pipeline: from_pretrained, save_pretrained, push_to_hub."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image

from emage.config import CheckpointConfig, Dtype
from emage.inference.pipeline_parts.batches import ImageBatches
from emage.model import checkpoint, device_support, hub, model_card
from emage.utils import image_grid

REWRITTEN = ("emage", "tokenizer", "files")  # keys of the manifest that saving a checkpoint writes itself


class PretrainedMixin(ImageBatches):
    """The part of `emage.Emage` that reads and writes checkpoints."""

    if TYPE_CHECKING:

        def generate(self, prompts: Sequence[str]) -> list[Image.Image]: ...

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: str = "auto",
        dtype: Dtype | torch.dtype = "float32",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model and its tokenizer.

        Examples:
            >>> pipe = emage.Emage.from_pretrained("demo", device="cpu")

        Args:
            path_or_hub_id: A checkpoint folder, "demo" (shipped with the package), or a model id on the Hugging Face
                hub ("user/name"), which is downloaded once.
            device: "cpu", "cuda", "cuda:1", ..., or "auto": cuda if a GPU is available.
            dtype: Precision of the network: float32, tf32 (float32 with faster products on a GPU), bfloat16 or
                float16. On a GPU the tokenizer's decoder follows it in tf32 and bfloat16, and stays in float32 with
                float16, which is not safe for it; on a CPU it is always in float32.
            revision: On the hub: a branch, tag or commit.
            token: On the hub: an access token for private models, or True for the one of `hf auth login`.
            cache_dir: On the hub: the folder of downloaded files. None: the hub's own.
            local_files_only: On the hub: use only files that are in the cache.

        Raises:
            InputError: If there is no such model, it is damaged, or the device or precision is not available.
        """
        device = device_support.choose(device)
        precision = device_support.dtype_name(dtype)
        device_support.check_dtype(precision, device)
        folder = hub.find(
            path_or_hub_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        network, tokenizer, config, metadata = checkpoint.load(folder, device)
        return cls(network, tokenizer, config, metadata, precision)

    def save_pretrained(
        self, path: str | Path, *, prompts: Sequence[str] | None = None, dtype: Dtype = "float32"
    ) -> None:
        """Write a checkpoint folder: safetensors, config, manifest, and a model card (README.md) with sample images.

        Paths of this machine in config and metadata are shortened to file names. The card's license is
        `metadata["license"]`, or apache-2.0.

        Examples:
            >>> pipe.save_pretrained("my_model", prompts=["a red circle"], dtype="float16")

        Args:
            path: The folder. A checkpoint that exists there is replaced.
            prompts: Prompts of the sample images. None: those of the loaded checkpoint, at first those of its
                training.
            dtype: Precision of the numbers in the file. float16 halves its size; loading makes them float32 again.

        Raises:
            InputError: If `path` holds something else, or the model was loaded in another precision than float32.
        """
        metadata = {key: value for key, value in self.metadata.items() if key not in REWRITTEN}
        metadata["prompts"] = list(metadata.get("prompts", ()) if prompts is None else prompts)
        config, metadata = without_folders(self.config, metadata)
        checkpoint.save(path, self.network, self.tokenizer, config, metadata, device_support.weights_dtype(dtype))
        if metadata["prompts"]:
            samples = image_grid.make_grid(self.generate(metadata["prompts"]), metadata["prompts"])
            samples.save(Path(path) / model_card.SAMPLES)
        model_card.write(path, self)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload Emage model",
        revision: str | None = None,
        prompts: Sequence[str] | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub, in one commit.

        Examples:
            >>> pipe.push_to_hub("user/my_model", private=True)

        Args:
            repo_id: "user/name". The repository is created if it does not exist.
            private: Whether a new repository is private. None: the account's default.
            token: An access token. None: the one of `hf auth login`.
            commit_message: Title of the commit.
            revision: A branch, created if it does not exist. None: the main branch.
            prompts: As for `save_pretrained`.

        Returns:
            The URL of the commit.

        Raises:
            InputError: If the login is missing, or the hub cannot be reached or rejects the upload.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, prompts=prompts)
            repo_id = hub.create(repo_id, private=private, token=token, revision=revision)
            model_card.write(folder, self, repo_id)
            return hub.upload(folder, repo_id, token=token, commit_message=commit_message, revision=revision)


def without_folders(config: CheckpointConfig, metadata: dict[str, Any]) -> tuple[CheckpointConfig, dict[str, Any]]:
    """Shorten paths to file names: a checkpoint is for others, the folders of this machine are not."""
    if config.model.text_weights:
        config = replace(config, model=replace(config.model, text_weights=Path(config.model.text_weights).name))
    if "path" in metadata.get("data", {}):
        metadata = metadata | {"data": metadata["data"] | {"path": Path(metadata["data"]["path"]).name}}
    init = metadata.get("settings", {}).get("init")
    if isinstance(init, str) and Path(init).is_absolute():  # a name or a hub id stays
        metadata = metadata | {"settings": metadata["settings"] | {"init": Path(init).name}}
    return config, metadata
