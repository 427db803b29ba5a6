"""Train the model of first.py by Hugging Face accelerate, and keep its weights in a safetensors file.

On several devices: ``accelerate launch examples/with_accelerate.py``. Needs ``pip install accelerate safetensors``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from first import Adder, make_batch
from safetensors.torch import load_model, save_model
from torch import nn


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, load, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=400, metavar="N", help="of the weights, default 400")
    parser.add_argument("--out", type=Path, default=Path("out/adder.safetensors"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    accelerator = Accelerator()
    model = Adder()
    prepared, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    for _ in range(options.updates):
        x, sums = (tensor.to(accelerator.device) for tensor in make_batch())
        loss = nn.functional.mse_loss(prepared(x), sums)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    if accelerator.is_main_process:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        trained = accelerator.unwrap_model(prepared)
        save_model(trained, str(options.out))
        loaded = Adder().to(accelerator.device)
        load_model(loaded, str(options.out))
        same = torch.equal(loaded(x), trained(x))
        print(f"mean square error {loss.item():.4f}; {options.out} gives {'the same' if same else 'another'} model")
    accelerator.end_training()


if __name__ == "__main__":
    main()
