"""What compute-sanitizer watches: a few steps by the kernels of one family, in each arithmetic, both passes.

python3 -m benchmarks.gpu_check.small_shapes FAMILY
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.gpu_check.layer import make_layer
from benchmarks.gpu_check.sanitizer import FAMILIES
from benchmarks.gpu_check.target import DTYPES, switch_tf32, target

SHAPES = [(3, 9, 62), (2, 17, 250)]  # T, B, H: one block a cluster and several; tiles that are not full


def main() -> None:
    """Run them, as far as the device has room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    device, family = target(arguments.rehearse), arguments.family
    for dtype in ("bf16", "tf32", *(("fp32",) if family != "streamed" else ())):
        switch_tf32(dtype)
        for steps, batch, hidden in SHAPES:
            layer = make_layer(
                device, DTYPES[dtype], 1 if family == "one_step" else steps, batch, device.hidden(hidden)
            )
            with device.use(family, "auto" if family == "one_step" else family):
                saved = layer.forward(device)
                if family != "one_step":
                    layer.backward(device, saved["y"], saved["gates"])
    if device.device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{family} ran")


if __name__ == "__main__":
    main()
