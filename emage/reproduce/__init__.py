"""The paper's tables and figures, made again: which trainings and measurements each needs, and what is told of them.

recipes.py, studies.py -> cells.py (what is done, what is to do) -> results.py -> tables.py, charts.py, findings.py
"""
