"""What some settings may be."""

from typing import Literal

Method = Literal["fully_nar", "iterative1", "iterative2", "iterative3", "autoregressive"]
Schedule = Literal["cosine", "linear", "square", "cubic", "sqrt"]
UnmaskingOrder = Literal["confidence", "random", "halton"]
Rank = Literal["none", "likelihood", "clip"]
Dtype = Literal["float32", "tf32", "bfloat16", "float16"]  # of drawing; tf32: float32 with faster products
Precision = Literal["float32", "tf32", "bfloat16"]  # of training
FidMode = Literal["torch-fidelity", "pytorch-fid", "clean"]
Study = Literal["table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5", "all"]
