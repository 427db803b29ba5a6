"""PyTorch's switches of float32 products: set for a run, and stated in its result."""

from __future__ import annotations

from typing import Any

import torch


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may compute float32 products in TF32: those of cuBLAS and of cuDNN's RNNs. Ours obey both."""
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "rnn"):
        precision = "tf32" if allowed else "ieee"
        backends.cudnn.rnn.fp32_precision = backends.cuda.matmul.fp32_precision = precision
    else:  # torch before 2.9
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = allowed


def allows_tf32() -> bool:
    """Whether cuDNN's RNNs may compute float32 products in TF32."""
    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.rnn.fp32_precision == "tf32" if hasattr(cudnn, "rnn") else cudnn.allow_tf32)


def stated(device: torch.device) -> dict[str, str]:
    """How float32 products are computed on a device: names of torch's switches, and their values as found."""
    backends: Any = torch.backends
    if device.type == "cpu":
        return {"get_float32_matmul_precision()": torch.get_float32_matmul_precision()}
    if hasattr(backends.cudnn, "rnn"):
        return {
            "backends.cuda.matmul.fp32_precision": backends.cuda.matmul.fp32_precision,
            "backends.cudnn.rnn.fp32_precision": backends.cudnn.rnn.fp32_precision,
        }
    return {
        "backends.cuda.matmul.allow_tf32": str(backends.cuda.matmul.allow_tf32),
        "backends.cudnn.allow_tf32": str(backends.cudnn.allow_tf32),
    }
