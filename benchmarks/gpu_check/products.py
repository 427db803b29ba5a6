"""What every kernel rests on: torch's products of halves into float, TF32's switches, and the stepwise kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.check import answer
from benchmarks.contenders import GruExt, Problem
from benchmarks.gpu_check.journal import FAILED, PASSED
from benchmarks.gpu_check.layer import make_layer, verdict_of
from benchmarks.gpu_check.stages import Case, Stage
from benchmarks.gpu_check.target import DTYPES, Target, peer_of, switch_tf32, target
from benchmarks.suites import Pass, Size

PRODUCTS = [(37, 65, 129), (8, 512, 1536), (64, 2048, 6144)]  # rows, inner, columns
LAYERS = [Size(7, 3, 33, I=5), Size(7, 17, 96, I=8)]


def cases(stage: Stage, rehearses: bool) -> list[Case]:
    """Products, then layers by the stepwise kernels, then by those that are chosen."""
    device = target(rehearses)
    products = [
        Case(f"mm {dtype} {rows}x{inner}x{columns} into float", partial(_product, device, dtype, rows, inner, columns))
        for rows, inner, columns in PRODUCTS
        for dtype in ("bf16", "fp16")
    ]
    layers = [
        Case(f"{kernel} {dtype} B={size.B} H={size.H} {kind}", partial(_layer, device, dtype, size, kind, kernel))
        for kernel in ("stepwise", "auto")
        for size in LAYERS
        for dtype in DTYPES
        for kind in ("forward", "train")
    ]
    switches = [
        Case(f"switches rnn={rnn} matmul={matmul}", partial(_switches, device, rnn, matmul))
        for rnn in ("ieee", "tf32")
        for matmul in ("ieee", "tf32")
    ]
    return [*products, *layers, *switches]


def _product(device: Target, dtype: str, rows: int, inner: int, columns: int) -> dict[str, Any]:
    """The largest error over what a sum of so many float32 products may have."""
    a, b = device.randn(rows, inner, dtype=DTYPES[dtype]), device.randn(inner, columns, dtype=DTYPES[dtype])
    # On a CPU torch has no such product; csrc/cuda/products.cpp then multiplies as float.
    product = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    error = float((product.double() - a.double() @ b.double()).abs().max())
    allowed = inner * torch.finfo(torch.float32).eps * float(a.abs().max() * b.abs().max())
    return {"outcome": PASSED if error <= allowed else FAILED, "largest_error": error, "allowed": allowed}


def _layer(device: Target, dtype: str, size: Size, kind: Pass, kernel: str) -> dict[str, Any]:
    """A layer of modules against nn.GRU, by the policy of the tests."""
    switch_tf32(dtype)
    module = nn.GRU(size.inputs, size.H, device=device.device, dtype=DTYPES[dtype])
    problem = Problem(size, kind, module, threads=1)
    ours = GruExt(problem)
    x = device.randn(size.T, size.B, size.inputs, dtype=DTYPES[dtype])
    dy = device.randn(size.T, size.B, size.H, dtype=DTYPES[dtype])
    with device.use(kernel, kernel):
        results = ours.results(ours.step(x, dy)())
    return verdict_of(results, answer(problem, x, dy, device.device, peer_of(dtype)))


def _switches(device: Target, rnn: str, matmul: str) -> dict[str, Any]:
    """A float32 call by torch's switches of TF32, also where the first call measures."""
    backends: Any = torch.backends
    backends.cudnn.rnn.fp32_precision, backends.cuda.matmul.fp32_precision = rnn, matmul
    steps, batch, hidden = (3, 2, 33) if device.rehearses else (64, 16, 256)
    layer = make_layer(device, torch.float32, steps, batch, hidden)
    layer.forward(device)
    device.ops.autotune(True, "")
    try:
        layer.forward(device)
        return {"kernels": device.chosen(Size(steps, batch, hidden), "fp32")}
    finally:
        device.ops.autotune(False, "")
        switch_tf32("fp32")
