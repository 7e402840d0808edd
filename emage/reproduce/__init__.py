"""The paper's tables and figures, reproduced.

studies          which experiments (trainings, evaluations, timings) a table or figure needs
recipes          the settings of each experiment
experiments      runs experiments once, and knows which are finished
requirements     missing settings and files, and an estimate of the time
latency, tokenizer_comparison, shapes_dataset    programs of experiments
paper_numbers    the paper's numbers
report/          results -> tables, charts, findings
"""
