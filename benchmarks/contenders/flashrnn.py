"""FlashRNN (https://github.com/NX-AI/flashrnn): CUDA kernels of the recurrence; the product of the input is torch's.

Its GRU has four gates of bias (n's recurrent part, r, z, n's input part), three of the recurrence (n, r, z) and three
of the input (r, z, n); r and z share one bias between input and recurrence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.contenders.base import ModuleContender, Problem


class _Layer(nn.Module):
    """One layer called as ``nn.GRU``, with the parameters in FlashRNN's layout."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        from flashrnn import flashrnn

        # As it is packaged now, that is a package which has the function.
        self.function = flashrnn if callable(flashrnn) else flashrnn.flashrnn
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        hidden = weight_hh.shape[1]
        r, z, n = weight_hh.chunk(3)
        b_r, b_z, b_n = bias_ih.chunk(3)
        c_r, c_z, c_n = bias_hh.chunk(3)
        self.weight = nn.Parameter(weight_ih.clone())  # (3H, I), gates r, z, n
        self.recurrent = nn.Parameter(torch.stack([n, r, z]).unsqueeze(1))  # (3, 1 head, H, H)
        self.bias = nn.Parameter(torch.stack([c_n, b_r + c_r, b_z + c_z, b_n]).view(4, 1, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(T, B, I) to (T, B, H), in a tuple."""
        steps, batch, _ = x.shape
        gates = linear(x, self.weight).view(steps, batch, 3, 1, -1).transpose(0, 1)  # (B, T, 3, 1 head, H)
        states, _ = self.function(
            gates,
            self.recurrent,
            self.bias,
            function="gru",
            backend="cuda",  # its fused kernels do not have the GRU
            dtype=str(x.dtype).removeprefix("torch."),
        )
        return (states[0].squeeze(2).transpose(0, 1),)  # of (1 state, B, T, 1 head, H)


class FlashRNN(ModuleContender):
    """``flashrnn.flashrnn(function="gru", backend="cuda")``."""

    name = "flashrnn"
    distribution = "flashrnn"
    modules = ("flashrnn",)
    configuration = 'flashrnn(function="gru", backend="cuda"), one head; input product by torch'

    @classmethod
    def absent(cls) -> str | None:
        """It needs a GPU."""
        return super().absent() or (None if torch.cuda.is_available() else "needs a CUDA device")

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """A CPU, several layers, both directions, float64."""
        if problem.device.type != "cuda":
            return "runs on CUDA only"
        if problem.size.L > 1 or problem.size.D > 1:
            return "one layer and one direction only"
        return "has no float64" if problem.dtype == torch.float64 else None

    def __init__(self, problem: Problem) -> None:
        self.take(problem, _Layer(list(problem.weights.values())))

    def weights(self) -> dict[str, Tensor]:
        """The biases of r and z come back as one: all of it in bias_ih."""
        weight, recurrent, bias = (parameter.detach().float() for parameter in self.parameters)
        c_n, b_r, b_z, b_n = bias.flatten(1)
        zero = torch.zeros_like(c_n)
        return dict(
            zip(
                self.names,
                (weight, _as_torch(recurrent), torch.cat([b_r, b_z, b_n]), torch.cat([zero, zero, c_n])),
                strict=True,
            )
        )

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.kind == "forward":
            return {"y": returned}
        dx, dweight, drecurrent, dbias = returned
        c_n, b_r, b_z, b_n = dbias.flatten(1)
        gradients = (dweight, _as_torch(drecurrent), torch.cat([b_r, b_z, b_n]), torch.cat([b_r, b_z, c_n]))
        return {"dx": dx, **dict(zip([f"d{name}" for name in self.names], gradients, strict=True))}


def _as_torch(recurrent: Tensor) -> Tensor:
    """(3, 1, H, H), gates n, r, z, to (3H, H), gates r, z, n."""
    n, r, z = recurrent.squeeze(1)
    return torch.cat([r, z, n])
