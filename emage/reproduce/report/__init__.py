"""Results of the experiments as tables, charts, and claims of the paper that they support or not."""
