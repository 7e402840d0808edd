"""Parts of the training of a VQGAN (train_vqgan.py).

patches    images as patches: the distinct ones, and which of them each image shows
codebook   moving codes to the latents
losses     loss, learning rate and latents of both trainings
sampled    training on any images
report     how well a tokenizer reconstructs images
"""
