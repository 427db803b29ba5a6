"""The compiled module; see csrc/gru.cpp."""

version: str
built_for_torch: str
has_cuda_kernels: bool
cuda_build: str  # what compiled the CUDA kernels, for which GPUs; or why they were not built

def cpu_isa() -> str: ...
def available_cpu_isas() -> list[str]: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...
