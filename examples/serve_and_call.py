"""Serve the shipped model on this machine and call it with the openai client.

python examples/serve_and_call.py [PORT]    # 30 seconds; writes served.png. Needs `pip install openai`
"""

import sys
from base64 import b64decode
from pathlib import Path

from openai import OpenAI

from emage.config import ServeConfig, preset
from emage.on_ray import launch
from emage.on_ray.serving import driver

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
PROMPT = "a small red circle above a large blue square"

launch.start_ray()
url = driver.start(driver.resolve(preset(ServeConfig, "demo", checkpoint="demo", port=PORT)))
try:
    client = OpenAI(base_url=f"{url}/v1", api_key="none")  # on 127.0.0.1 no key is needed
    answer = client.images.generate(prompt=PROMPT, n=1, extra_body={"seed": 7, "steps": 16})
    Path("served.png").write_bytes(b64decode(answer.data[0].b64_json))

    # The same as a stream: a preview after each decoding step, then the finished image.
    stream = client.images.generate(prompt=PROMPT, stream=True, extra_body={"seed": 7, "steps": 16})
    types = [event.type for event in stream]
    print(f"served.png, and as a stream: {len(types) - 1} x {types[0]}, then {types[-1]}")
finally:
    driver.stop()
