"""Reports on finished experiments: results -> tables, charts, and findings on the paper's claims."""
