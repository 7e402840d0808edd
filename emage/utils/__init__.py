"""What knows nothing of images or models: files, errors, storage, memory, torch.compile."""
