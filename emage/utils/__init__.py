"""Helpers that do not depend on models or data: errors, storage, manifests, image grids, memory, torch.compile."""
