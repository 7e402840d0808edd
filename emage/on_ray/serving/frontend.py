"""The deployment that speaks HTTP. It imports no PyTorch, so a replacement for a lost one is ready in seconds."""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from emage.on_ray.serving.metrics import RequestMetrics
from emage.on_ray.serving.replicas import Replicas
from emage.serving.http.app import Options, make_app


@serve.deployment
@serve.ingress()
class Frontend:
    """The HTTP API (emage/serving/http) in front of the replicas that generate.

    Args:
        model: The handle of the Model deployment.
        options: Timeout and access rules.
    """

    def __init__(self, model: DeploymentHandle, options: Options):
        self._model, self._options = model, options

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(Replicas(self._model), self._options, RequestMetrics())
