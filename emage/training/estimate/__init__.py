"""What a training run needs, before it starts: parameters, FLOP, GPU memory, disk and days (`dry_run=true`)."""
