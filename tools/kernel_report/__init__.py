"""What compilers make of the CUDA kernels, and what an emulated launch of them moves and computes.

``python -m tools.kernel_report`` prints it; no GPU is needed.
"""
