"""The compiled module; see csrc/gru.cpp."""

version: str
built_for_torch: str

def cpu_isa() -> str: ...
def available_cpu_isas() -> list[str]: ...
