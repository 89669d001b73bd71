"""The published formulation of TransNeXt in plain PyTorch: the baseline of every comparison.

Written from the paper (arXiv 2311.17132) and the description of the released model, operation by
operation the way the research code runs on a CPU: unfold the window, concatenate both sets of
logits, one softmax, split, tensors permuted to head-major in between, a position bias gathered
through an index of N·P entries. It shares nothing with the packages but the names of its weights,
so that a state dict loads in both; it is slow on purpose and is not to be improved.
"""
