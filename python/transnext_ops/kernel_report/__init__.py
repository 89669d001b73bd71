"""What compilers make of the CUDA kernels, and what an emulated launch of them moves and computes.

``python -m transnext_ops.kernel_report`` prints it; no GPU is needed.
"""
