"""Run a GRU on a stream, one time step at a time, and show that it gives what the whole sequence at once gives.

Training reads whole sequences; what the model is then used for often comes a step at a time: audio, key strokes,
sensors. The state that a call returns is all the next call needs. ``gru_ext.GRUCell`` does the same for one layer.

Letters: T steps, I input, H hidden, L layers; the batch is 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import gru_ext

INPUT, HIDDEN, LAYERS = 32, 128, 2


def stream(gru: gru_ext.GRU, sequence: Tensor) -> Tensor:
    """The output (T, 1, H) for a sequence (T, 1, I) of which one step is known at a time."""
    state = None
    outputs = []
    for x in sequence.split(1):  # (1, 1, I)
        output, state = gru(x, state)
        outputs.append(output)
    return torch.cat(outputs)


def stream_cells(cells: list[gru_ext.GRUCell], sequence: Tensor) -> Tensor:
    """As ``stream``, with a cell for each layer."""
    states: list[Tensor | None] = [None] * len(cells)
    outputs = []
    for x in sequence:  # (1, I)
        for layer, cell in enumerate(cells):
            x = states[layer] = cell(x, states[layer])
        outputs.append(x)
    return torch.stack(outputs)


def make_cells(gru: gru_ext.GRU) -> list[gru_ext.GRUCell]:
    """A cell for each layer of a GRU, with its weights."""
    cells = []
    for weight_ih, weight_hh, bias_ih, bias_hh in gru.all_weights:
        cell = gru_ext.GRUCell(weight_ih.shape[1], gru.hidden_size)
        cell.load_state_dict({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh})
        cells.append(cell)
    return cells


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the two ways to stream with the whole sequence, and time a step of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, metavar="T", help="of the stream, default 1000")
    steps = parser.parse_args(arguments).steps
    torch.manual_seed(0)
    gru = gru_ext.GRU(INPUT, HIDDEN, LAYERS)
    cells = make_cells(gru)
    sequence = torch.randn(steps, 1, INPUT)
    whole, _ = gru(sequence)

    print(f"T = {steps}, B = 1, I = {INPUT}, H = {HIDDEN}, L = {LAYERS}")
    for name, run in (("GRU", partial(stream, gru)), ("GRUCell", partial(stream_cells, cells))):
        began = time.perf_counter()
        streamed = run(sequence)
        microseconds = (time.perf_counter() - began) / steps * 1e6
        torch.testing.assert_close(streamed, whole)
        difference = (streamed - whole).abs().max().item()
        print(f"{name}: {microseconds:.0f} microseconds a step; differs by {difference:.1e} at most from the whole")


if __name__ == "__main__":
    main()
