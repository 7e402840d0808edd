"""What the experiments found, as tables, charts and findings."""
