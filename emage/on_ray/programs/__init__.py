"""Programs that run several stages (demo, reproduce) or check a machine and its cluster (doctor)."""
