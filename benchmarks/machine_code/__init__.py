"""The machine code of CUDA kernels: read, judged, and its time predicted. No torch."""
