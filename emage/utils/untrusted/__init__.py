"""Files of strangers: checkpoints, weights, tables. They cannot run code, fill the memory or write markup."""
