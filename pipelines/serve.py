"""Serve a checkpoint over HTTP, with the OpenAI images API.

    python pipelines/serve.py demo checkpoint=runs/demo/train/model               # this machine, CPU
    EMAGE_API_KEY=... python pipelines/serve.py checkpoint=FOLDER host=0.0.0.0 num_replicas=4    # a GPU each
    ray job submit --working-dir . -- python pipelines/serve.py checkpoint=/shared/model
    serve run pipelines.serve:app checkpoint=FOLDER gpus_per_replica=0           # on Serve's own host and port

checkpoint= may be a hub id as well. Cost: ready in about 20 s. Result: it prints its URL and a curl line to try, and
serves until Ctrl-C or SIGTERM, which drains it and exits with 0. Other machines need an API key: EMAGE_API_KEY.

GET / is a page on which the image forms; POST /v1/images/generations with {"prompt": ..., "n": 2, "seed": 7,
"steps": 16} returns {"created", "data": [{"b64_json"}]}; POST /v1/images/edits; GET /v1/models, /health, /metrics,
/docs (docs/guides/serving.md).
"""

import sys
from typing import Any

from emage import commands
from emage.config import ServeConfig, parse


def app(values: dict[str, str]) -> Any:
    """Build the application for `serve run` and `serve deploy`, from their key=value arguments."""
    from emage.on_ray.serving import application, driver

    config = parse(ServeConfig, [f"{key}={value}" for key, value in values.items()])
    driver.validate(config)
    return application.build(application.read_inputs(config))


if __name__ == "__main__":
    commands.run("serve", sys.argv[1:])
