"""An example of a safety hook, to copy and adapt: words that a prompt must not contain.

    python pipelines/serve.py checkpoint=FOLDER access.safety=emage.serving.safety:word_list

A hook is a function of a prompt and an image that returns the reason why it rejects them, or None. It is called with
each prompt before anything is generated (the image is None), then with every preview and every finished image; a
classifier of images belongs there. It runs in a thread of the replica. If it raises, the request is rejected.
"""

import re

from PIL import Image

BLOCKED_WORDS = frozenset({"gore", "beheading", "porn", "nude"})  # put your own list here


def word_list(prompt: str, image: Image.Image | None) -> str | None:
    """Reject a prompt that contains one of BLOCKED_WORDS, in upper or lower case.

    Args:
        prompt: The request's prompt.
        image: None before anything is generated, else a preview or a finished image.

    Returns:
        The reason that the client gets, or None if nothing is wrong.
    """
    if image is None and BLOCKED_WORDS & set(re.findall(r"\w+", prompt.lower())):
        return "it contains a word that this endpoint does not accept"
    return None
