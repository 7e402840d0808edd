"""Captions to text states: a pretrained encoder of 12 layers, trained with the rest (Sec. 4.5).

An encoder is a module with these members: `width`, `length` (positions), `frozen`, `tokenize`, `forward`, and
`load_published`. Letters: B captions, S positions, D width.
"""

from emage.config import ModelConfig
from emage.model.text.bert import BertText
from emage.model.text.clip import ClipText, clip_weights

__all__ = ["ENCODERS", "BertText", "ClipText", "TextEncoder", "clip_weights", "load_published"]

TextEncoder = ClipText | BertText
ENCODERS = {"clip_l14": ClipText, "clip_tiny": ClipText, "bert_base": BertText, "bert_tiny": BertText}
UNPUBLISHED = ("clip_tiny", "bert_tiny")  # for tests: the architecture, small


def load_published(encoder: TextEncoder, config: ModelConfig) -> None:
    """Fills an encoder with published weights: `config.text_weights`, or those that are downloaded by name.

    Does nothing for a tiny one without a file. Raises InputError where the weights cannot be had or do not fit.
    """
    if config.text not in UNPUBLISHED or config.text_weights is not None:
        encoder.load_published(config.text_weights)
