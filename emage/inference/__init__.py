"""Images from prompts: the pipeline `Emage`, decoding steps, inpainting, ranking of candidates, and CUDA graphs."""
