"""The parts of the pipeline class: what it inherits besides its own calls."""
