"""The example of a safety hook."""

from PIL import Image

from emage.serving.safety import word_list


def test_words_are_rejected_in_any_case() -> None:
    assert word_list("A NUDE, reclining", None)
    assert word_list("a denuded hill in Goreme", None) is None
    assert word_list("a nude", Image.new("RGB", (1, 1))) is None  # the prompt was asked about before
