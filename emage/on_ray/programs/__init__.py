"""Programs that start or check several stages: the demo, the paper's tables, the doctor."""
