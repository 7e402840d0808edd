"""The examples of docs/http_api.md: each task with curl, with Python's requests and with OpenAI's client.

A test runs every one of them against an endpoint.
"""

from emage.serving.http.parameters.schema import EXAMPLE_PROMPT

URL = "http://127.0.0.1:8000"

_GENERATE_CURL = f"""
curl -sS {URL}/v1/images/generations \\
  -H 'Content-Type: application/json' \\
  -d '{{"prompt": "{EXAMPLE_PROMPT}", "seed": 7}}' \\
  | grep -o '"b64_json": *"[^"]*' | cut -d'"' -f4 | base64 -d > image.png
"""

_GENERATE_REQUESTS = f"""
import base64
import requests

body = {{"prompt": "{EXAMPLE_PROMPT}", "seed": 7}}
answer = requests.post("{URL}/v1/images/generations", json=body, timeout=90)
answer.raise_for_status()
with open("image.png", "wb") as file:
    file.write(base64.b64decode(answer.json()["data"][0]["b64_json"]))
"""

_GENERATE_OPENAI = f"""
import base64
from openai import OpenAI

client = OpenAI(base_url="{URL}/v1", api_key="none")
answer = client.images.generate(prompt="{EXAMPLE_PROMPT}", extra_body={{"seed": 7}})
with open("image.png", "wb") as file:
    file.write(base64.b64decode(answer.data[0].b64_json))
"""

_STREAM_CURL = f"""
curl -sS -N {URL}/v1/images/generations \\
  -H 'Content-Type: application/json' \\
  -d '{{"prompt": "{EXAMPLE_PROMPT}", "stream": true, "partial_images": 3}}'
"""

_STREAM_REQUESTS = f"""
import json
import requests

body = {{"prompt": "{EXAMPLE_PROMPT}", "stream": True, "partial_images": 3}}
with requests.post("{URL}/v1/images/generations", json=body, stream=True, timeout=90) as answer:
    for line in answer.iter_lines():
        if line.startswith(b"data: "):
            event = json.loads(line.removeprefix(b"data: "))
            print(event["type"], event["step"], event["steps"], event["known"])
"""

_STREAM_OPENAI = f"""
from openai import OpenAI

client = OpenAI(base_url="{URL}/v1", api_key="none")
prompt = "{EXAMPLE_PROMPT}"
for event in client.images.generate(prompt=prompt, stream=True, partial_images=3):
    print(event.type, event.step, event.steps, event.known)
"""

_EDIT_CURL = f"""
curl -sS {URL}/v1/images/edits \\
  -F image=@image.png -F mask=@mask.png -F prompt='a large green cross' > answer.json
"""

_EDIT_REQUESTS = f"""
import requests

files = {{"image": open("image.png", "rb"), "mask": open("mask.png", "rb")}}
fields = {{"prompt": "a large green cross"}}
answer = requests.post("{URL}/v1/images/edits", data=fields, files=files, timeout=90)
print(answer.json()["data"][0]["seed"])
"""

_EDIT_OPENAI = f"""
from openai import OpenAI

client = OpenAI(base_url="{URL}/v1", api_key="none")
image, mask = open("image.png", "rb"), open("mask.png", "rb")
answer = client.images.edit(image=image, mask=mask, prompt="a large green cross")
print(answer.data[0].seed)
"""

_TASKS = (
    ("An image of a prompt", (_GENERATE_CURL, _GENERATE_REQUESTS, _GENERATE_OPENAI)),
    ("A stream with previews", (_STREAM_CURL, _STREAM_REQUESTS, _STREAM_OPENAI)),
    ("An edit", (_EDIT_CURL, _EDIT_REQUESTS, _EDIT_OPENAI)),
)
_CLIENTS = (("curl", "sh"), ("Python, requests", "python"), ("Python, OpenAI's client", "python"))


def examples() -> str:
    """Return the examples as Markdown: a heading per task, then a block per client."""
    parts = []
    for title, blocks in _TASKS:
        parts.append(f"### {title}")
        for (client, language), block in zip(_CLIENTS, blocks, strict=True):
            parts.append(f"{client}:\n\n```{language}\n{block.strip()}\n```")
    return "\n\n".join(parts)
