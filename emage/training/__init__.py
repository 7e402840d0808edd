"""The training step and all that a run keeps, on one process. Ray Train's part is on_ray/training."""
