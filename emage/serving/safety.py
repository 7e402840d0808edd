"""An example of a safety hook, to copy and make your own: words that a prompt may not hold.

    python pipelines/serve.py checkpoint=FOLDER access.safety=emage.serving.safety:word_list

A hook is a function of a prompt and an image that returns why it refuses, or None. It is called with each prompt
before anything is drawn (the image is None), then with every preview and every finished image; a classifier of
images goes there. It runs in a thread of the replica. One that raises refuses.
"""

import re

from PIL import Image

WORDS = frozenset({"gore", "beheading", "porn", "nude"})  # put your own list here


def word_list(prompt: str, image: Image.Image | None) -> str | None:
    """Refuses prompts with one of WORDS in them, whatever its case."""
    if image is None and WORDS & set(re.findall(r"\w+", prompt.lower())):
        return "it asks for what this endpoint does not draw"
    return None
