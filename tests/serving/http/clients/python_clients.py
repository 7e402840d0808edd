"""Other Python clients, unchanged: `python python_clients.py CLIENT URL IMAGE MASK` prints what it returned as JSON."""

import json
import os
import sys

PROMPT = "a small red circle above a large blue square"


def litellm(url: str, image: str, mask: str) -> list[dict]:
    """Generate two images with many parameters, one as a URL, and edit one."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the map of prices is not fetched
    import litellm

    common = {"model": "openai/emage", "prompt": PROMPT, "api_base": url, "api_key": "none"}
    with open(image, "rb") as image_file, open(mask, "rb") as mask_file:
        answers = [
            litellm.image_generation(**common, n=2, quality="high", user="me", size="auto", extra_body={"seed": 7}),
            litellm.image_generation(**common, extra_body={"response_format": "url", "seed": 7}),
            litellm.image_edit(**common, image=image_file, mask=mask_file),
        ]
    return [{"b64_json": item.b64_json, "url": item.url} for answer in answers for item in answer.data]


def langchain(url: str, image: str, mask: str) -> list[dict]:
    """Generate two images. The wrapper always sends size, quality, n and a model, and reads URLs."""
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    wrapper = DallEAPIWrapper(base_url=url, api_key="none", model="dall-e-3", size="auto", n=2, separator=" ")
    return [{"b64_json": None, "url": one} for one in wrapper.run(PROMPT).split(" ")]


if __name__ == "__main__":
    clients = {"litellm": litellm, "langchain": langchain}
    json.dump(clients[sys.argv[1]](*sys.argv[2:]), sys.stdout)
