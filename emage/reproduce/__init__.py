"""The paper's tables and figures, made again: which trainings and measurements each needs, and what is told of them.

recipes.py, studies.py -> experiments.py (what is done, what is to do) -> report/: results, tables, charts, findings
"""
