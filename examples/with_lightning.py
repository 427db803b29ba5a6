"""Train the model of first.py by Lightning. Needs ``pip install lightning``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from first import Adder, make_batch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class LightningAdder(lightning.LightningModule):  # type: ignore[misc]  # its types are not read
    """What Lightning needs to know of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Adder()

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        x, sums = batch
        return nn.functional.mse_loss(self.model(x), sums)

    def configure_optimizers(self) -> Any:
        """One optimizer of all parameters."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=400, metavar="N", help="of the weights, default 400")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(*make_batch(64 * options.updates)), batch_size=64)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    module = LightningAdder()
    trainer.fit(module, data)
    x, sums = make_batch()
    with torch.no_grad():
        error = nn.functional.mse_loss(module.to("cpu").model(x), sums).item()
    print(f"mean square error {error:.4f}")


if __name__ == "__main__":
    main()
