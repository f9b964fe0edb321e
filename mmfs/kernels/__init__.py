"""The CUDA kernels: their sources, which know nothing of torch, and what compiles and launches them."""
