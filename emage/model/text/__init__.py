"""Text encoders: captions to states, by a pretrained network of 12 layers that is trained with the rest (Sec. 4.5).

An encoder is an nn.Module with these members:

    width, length, frozen           D; S, the number of positions; True if its weights are not trained
    tokenize(captions)              -> ids (B,S) int64, and (B,) bool: the captions that were truncated
    forward(ids (B,S))              -> states (B,S,D)
    load_published(path or None)    loads published weights, which are downloaded if no path is given

Letters: B captions, S positions, D width.
"""

from emage.config import ModelConfig
from emage.model.text.bert import BertText
from emage.model.text.clip import ClipText, clip_weights

__all__ = ["ENCODERS", "BertText", "ClipText", "TextEncoder", "clip_weights", "load_published"]

TextEncoder = ClipText | BertText
ENCODERS = {"clip_l14": ClipText, "clip_tiny": ClipText, "bert_base": BertText, "bert_tiny": BertText}
UNPUBLISHED = ("clip_tiny", "bert_tiny")  # for tests: the architecture, small


def load_published(encoder: TextEncoder, config: ModelConfig) -> None:
    """Load published weights into an encoder: `config.text_weights`, or those that are downloaded by name.

    Do nothing for a tiny encoder without a file: it keeps its random weights.

    Raises:
        InputError: The weights are not available or do not fit.
    """
    if config.text not in UNPUBLISHED or config.text_weights is not None:
        encoder.load_published(config.text_weights)
