"""Networks whose features metrics compare: Inception, tokenizers, and where their weights are."""
