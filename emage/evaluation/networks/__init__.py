"""Networks whose features metrics compare (Inception, tokenizers), and the files of their weights."""
