"""A trained model in MLflow: logged with its run, and registered if that is asked for.

The model is a folder that holds the checkpoint's own files (safetensors, no pickle) and MLflow's description: flavour
pyfunc, signature, input example, requirements. emage.inference.mlflow_pyfunc loads it. The checkpoint has no secrets:
they are taken out of its manifest and its config when it is written.
"""

import contextlib
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emage.inference import mlflow_pyfunc
from emage.inference.mlflow_pyfunc import COLUMNS, IMAGE, PROMPT, SEED
from emage.model import checkpoint_manifest
from emage.utils.redact import redact_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

NAME = "model"  # of the logged model
_MLFLOW_TYPES = {str: "string", int: "long", float: "double"}


def log(client: "MlflowClient", run_id: str, checkpoint: Path, register_as: str = "") -> None:
    """Log a checkpoint as the model of a run, and register it: what an earlier attempt has done is not done again.

    Args:
        client: Connected to the run's server or database.
        run_id: The run.
        checkpoint: The folder that `Emage.save_pretrained` wrote.
        register_as: Name in the model registry, of which this becomes the next version; "": not registered.
    """
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    logged = client.get_logged_model(outputs[0].model_id) if outputs else _upload(client, run, checkpoint)
    if register_as:
        _register(client, register_as, run_id, logged)


def _upload(client: "MlflowClient", run: Any, checkpoint: Path) -> Any:
    """Log a checkpoint as the model of a run; return MLflow's entry of it."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id = run.info.run_id
    logged = client.create_logged_model(run.info.experiment_id, NAME, run_id)
    try:
        description = Model(
            artifact_path=redact_settings(logged.artifact_location),  # it is written to a file of the model
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        )
        with tempfile.TemporaryDirectory(prefix="emage-") as temporary:
            save(checkpoint, Path(temporary) / NAME, description)
            client.log_model_artifacts(logged.model_id, str(Path(temporary) / NAME))
        client.finalize_logged_model(logged.model_id, "READY")
    except Exception:
        with contextlib.suppress(Exception):  # the first error counts
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    step = checkpoint_manifest.read(checkpoint).get("step", 0)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    return logged


def save(checkpoint: Path, folder: Path, description: "Model | None" = None) -> None:
    """Write a checkpoint as an MLflow model into a new folder, for `mlflow.pyfunc.load_model` without any server.

    Args:
        checkpoint: The folder that `Emage.save_pretrained` wrote.
        folder: The new folder.
        description: The model's entry in MLflow, if it has one.
    """
    import mlflow.pyfunc
    import pandas as pd

    prompts = checkpoint_manifest.read(checkpoint).get("prompts") or ["a small red circle"]
    mlflow.pyfunc.save_model(
        folder,
        loader_module=mlflow_pyfunc.__name__,
        data_path=str(checkpoint),
        mlflow_model=description,
        signature=_signature(),
        input_example=pd.DataFrame({PROMPT: prompts[:1], SEED: [7]}),
        pip_requirements=[f"{package}=={version(package)}" for package in ("emage", "mlflow", "pandas")],
    )


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    inputs: list[Any] = [ColSpec(_MLFLOW_TYPES[kind], name, required=name == PROMPT) for name, kind in COLUMNS.items()]
    return ModelSignature(Schema(inputs), Schema([ColSpec("string", IMAGE), ColSpec("long", SEED)]))


def _register(client: "MlflowClient", name: str, run_id: str, logged: Any) -> None:
    """Make a run's model the next version of a registered model, which is created if it does not exist."""
    from mlflow.exceptions import MlflowException

    if any(one.name == name for one in client.search_model_versions(f"run_id='{run_id}'")):
        return
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(name, logged.artifact_location, run_id, model_id=logged.model_id)
