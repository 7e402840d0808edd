"""The paper's tables and figures, reproduced: which trainings and measurements each needs, and the reports on them.

recipes.py, studies.py -> experiments.py (what is finished, what is left to run) -> report/: results, tables, charts,
findings
"""
