"""The deployment that speaks HTTP. It imports no PyTorch: a lost one is back in seconds."""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from emage.on_ray.serving.metrics import RequestMeter
from emage.on_ray.serving.replicas import Replicas
from emage.serving.http.app import Options, make_app


@serve.deployment
@serve.ingress()
class Frontend:
    """emage/serving/http in front of the replicas that draw."""

    def __init__(self, model: DeploymentHandle, options: Options):
        self._model, self._options = model, options

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(Replicas(self._model), self._options, RequestMeter())
