"""The only place that knows Ray, DeepSpeed, img2dataset and MLflow: one module for each foreign system."""
