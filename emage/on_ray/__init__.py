"""The stages on a Ray cluster: the only folder that imports Ray, DeepSpeed, img2dataset and MLflow."""
