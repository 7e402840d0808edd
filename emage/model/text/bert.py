"""BERT base, uncased, as the text encoder: its last hidden states (Sec. 4.5: the alternative to CLIP).

It attends in both directions, over the caption's own tokens alone: padding is masked inside. The decoder attends to its
states at all positions, those of padding too, as it does with CLIP. It has no dropout here, like the rest of the
network: a training step depends on its seeds alone.

Letters: B captions, S positions, D width.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn

from emage.config import ModelConfig
from emage.model.text.state_cache import StateCache
from emage.utils.errors import InputError
from emage.utils.untrusted import plain_data
from emage.utils.untrusted.safe_pickle import UNPICKLING_ERRORS, reason

PUBLISHED = "google-bert/bert-base-uncased"
REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"  # a commit names its files by their hashes
FILES = ("config.json", "vocab.txt", "model.safetensors")
PAD, SPECIAL = 0, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

MAX_VOCABULARY_BYTES = 10_000_000  # bert-base-uncased has 230 kB, or 700 kB as JSON
# The vocabulary of an encoder without a published one: letters, digits and punctuation, one token each.
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
LETTERS = (*SPECIAL, *_CHARACTERS, *("##" + character for character in _CHARACTERS))

# (width, heads, layers, size of the vocabulary); the tiny one has BERT's architecture, and no published weights.
SIZES = {"bert_base": (768, 12, 12, 30_522), "bert_tiny": (64, 4, 4, len(LETTERS))}
# Keys of a published config.json that must have our values, or its weights would give another network.
ARCHITECTURE = (
    *("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
)


class BertText(nn.Module):
    """BERT without its pooler, 108.9M parameters at the base size, and its vocabulary: a state dict holds both."""

    def __init__(self, config: ModelConfig):
        from transformers import BertConfig, BertModel  # takes a second, which CLIP does not need

        super().__init__()
        self.name = config.text
        self.width, heads, layers, vocab_size = SIZES[config.text]
        self.length = config.text_length
        self.frozen = config.text_frozen
        architecture = BertConfig(
            vocab_size=vocab_size,
            hidden_size=self.width,
            num_attention_heads=heads,
            num_hidden_layers=layers,
            intermediate_size=4 * self.width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        if not 2 <= self.length <= architecture.max_position_embeddings:
            most = architecture.max_position_embeddings
            raise ValueError(f"model.text_length={self.length}: BERT has 2 to {most} positions")
        self.tower = BertModel(architecture, add_pooling_layer=False)
        self._use(LETTERS)
        self._cache = StateCache()
        if self.frozen:
            self.requires_grad_(False)

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (B,S) int64, padded with 0 after [SEP], and (B,) bool: the captions that were truncated."""
        pieces = self._tokenizer.encode_batch(list(captions))
        ids = torch.tensor([piece.ids for piece in pieces])
        return ids, torch.tensor([bool(piece.overflowing) for piece in pieces])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the states (B,S,D) of the last layer for ids (B,S)."""
        if not self.frozen:
            return self._read(ids)
        with torch.no_grad():
            return self._cache(ids, self.tower, self._read)

    def load_published(self, folder: str | None) -> None:
        """Load published weights and vocabulary.

        Args:
            folder: A local folder with FILES; None: bert-base-uncased, downloaded once.

        Raises:
            InputError: They are not available or do not fit.
        """
        folder, config, words, weights = published(folder)
        different = [key for key in ARCHITECTURE if config[key] != getattr(self.tower.config, key)]
        if different:
            theirs, ours = config[different[0]], getattr(self.tower.config, different[0])
            raise InputError(
                f"{folder} is not {self.name}: its config.json has {different[0]} {theirs!r}, not {ours!r}"
            )
        if not _complete(words, config["vocab_size"]):
            raise InputError(f"{folder} does not hold the vocabulary of {self.name}: it has {len(words)} words")
        wanted = self.tower.state_dict()
        for key, value in wanted.items():
            if key not in weights or weights[key].shape != value.shape:
                raise InputError(f"{folder} does not hold the weights of {self.name}: see {key}")
        self.load_state_dict({**{f"tower.{key}": weights[key] for key in wanted}, "_extra_state": _to_bytes(words)})

    def get_extra_state(self) -> Tensor:
        """Return the vocabulary as UTF-8, one word per line: a checkpoint is not usable without it."""
        return _to_bytes(self._words)

    def set_extra_state(self, state: Tensor) -> None:
        """Use the vocabulary that `get_extra_state` returned."""
        # A checkpoint for use holds all numbers as float32; a byte is exact in every float.
        self._use(state.to("cpu", torch.uint8).numpy().tobytes().decode().split("\n"))

    def _read(self, ids: Tensor) -> Tensor:
        return self.tower(input_ids=ids, attention_mask=(ids != PAD).long()).last_hidden_state

    def _use(self, words: Sequence[str]) -> None:
        """Tokenize with these words, in the order of their ids."""
        self._words = tuple(words)
        self._tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, lowercase=True)
        # Captions come from the web: "[SEP]" in one is read as these five characters, and does not end it.
        self._tokenizer._tokenizer.encode_special_tokens = True
        self._tokenizer.enable_truncation(self.length)
        self._tokenizer.enable_padding(pad_id=PAD, length=self.length)


def published(folder: str | None) -> tuple[str, dict[str, Any], list[str], dict[str, Tensor]]:
    """Return folder, config, vocabulary and weights of a published BERT; None: bert-base-uncased, downloaded once.

    transformers' `from_pretrained` would print a table of the weights that it leaves out, on every worker.
    """
    from huggingface_hub import snapshot_download
    from transformers import BertConfig

    try:
        folder = folder or snapshot_download(PUBLISHED, revision=REVISION, allow_patterns=list(FILES))
        config = {**BertConfig().to_dict(), **plain_data.read_json(Path(folder, "config.json"))}
        return folder, config, _words(Path(folder)), _weights(Path(folder))
    except (OSError, SafetensorError, *UNPICKLING_ERRORS) as error:
        raise InputError(
            f"no BERT weights in {folder or PUBLISHED} ({reason(error)}): fetch {', '.join(FILES)} of "
            f"https://huggingface.co/{PUBLISHED} on a machine with a network, put them in a folder and pass it "
            "(model.text_weights=FOLDER)"
        ) from None


def _words(folder: Path) -> list[str]:
    """Return the vocabulary in the order of its ids, from vocab.txt or tokenizer.json."""
    if (folder / "vocab.txt").exists() or not (folder / "tokenizer.json").exists():
        return plain_data.read_text(folder / "vocab.txt", MAX_VOCABULARY_BYTES).rstrip("\n").split("\n")
    ids = plain_data.read_json(folder / "tokenizer.json", MAX_VOCABULARY_BYTES)["model"]["vocab"]
    words = sorted(ids, key=ids.__getitem__)
    if [ids[word] for word in words] != list(range(len(words))):
        raise ValueError("tokenizer.json has gaps between its ids")
    return words


def _complete(words: list[str], rows: int) -> bool:
    """Return True if padding comes first, no special word is missing, none is twice, and all have an embedding row."""
    return words[:1] == ["[PAD]"] and {*SPECIAL} <= {*words} and len({*words}) == len(words) <= rows


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the encoder's tensors by today's names: the old file has a whole BERT, with LayerNorm's gamma and beta."""
    if (folder / "pytorch_model.bin").exists() and not (folder / "model.safetensors").exists():
        tensors = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        tensors = load_file(folder / "model.safetensors")
    names = {".gamma": ".weight", ".beta": ".bias"}

    def renamed(key: str) -> str:
        stem, dot, last = key.removeprefix("bert.").rpartition(".")
        return stem + names.get(dot + last, dot + last)

    return {renamed(key): tensor for key, tensor in tensors.items() if isinstance(tensor, Tensor)}


def _to_bytes(words: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray("\n".join(words).encode()), dtype=torch.uint8)
