"""The stepwise kernels as a layer of one direction: launches on the CPU, and the products between them by PyTorch.

Letters: T steps, B batch, I input, H hidden.
"""

from __future__ import annotations

import torch
from cases import Problem
from emulation import Schedule, run
from torch import Tensor

NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float", torch.float64: "double"}


def acc_dtype_of(dtype: torch.dtype) -> torch.dtype:
    """In which kernels compute."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def solve_by_steps(problem: Problem, reset_after: bool, schedule: Schedule) -> dict[str, Tensor]:
    """As ``cases.solve``, of (T, B, I) with state and biases; the reset gate after the recurrent product or before."""
    x, (w_ih, w_hh, b_ih, b_hh) = problem.x, problem.weights
    assert problem.hx is not None
    assert problem.dy is not None
    assert problem.dh_n is not None
    (steps, batch, _), hidden, dtype = x.shape, w_hh.shape[1], x.dtype
    acc, name = acc_dtype_of(dtype), NAMES[dtype]
    count = 4 if reset_after else 3  # gates that are saved, and gradients of gates
    numbers = {"rows": batch, "H": hidden, "y_stride": hidden}
    h = problem.hx[0].to(acc, copy=True)
    operand = h if acc == dtype else problem.hx[0].clone()
    y, gates = x.new_full((steps, batch, hidden), torch.nan), x.new_full((steps, batch, count, hidden), torch.nan)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return a.to(acc) @ b.to(acc)

    biases = {"bias_ih": b_ih, "bias_hh": b_hh}
    state: dict[str, Tensor | None] = {"h": h, "h_operand": None if operand is h else operand}
    for t in range(steps):
        outputs = {**state, "y": y[t], "gates": gates[t]}
        a_x = product(x[t], w_ih.t())
        if reset_after:
            a_h = product(operand, w_hh.t())
            run(f"gru_step_fwd_{name}", numbers, {**biases, "a_x": a_x, "a_h": a_h}, outputs, schedule)
            continue
        z, reset = torch.full_like(h, torch.nan), torch.full_like(operand, torch.nan)
        inputs = {**biases, "a_x": a_x, "a_h": product(operand, w_hh[: 2 * hidden].t())}
        kept: dict[str, Tensor | None] = {"reset": reset, "z": z, "gates": gates[t]}
        run(f"gru_step_reset_fwd_{name}", numbers, {**inputs, "h": h}, kept, schedule)
        inputs |= {"a_reset": product(reset, w_hh[2 * hidden :].t()), "z": z}
        run(f"gru_step_candidate_fwd_{name}", numbers, inputs, outputs, schedule)

    dh, dh_product = problem.dh_n[0].to(acc, copy=True), torch.zeros(batch, hidden, dtype=acc)
    dgates = x.new_full((steps, batch, count * hidden), torch.nan)
    h_operand, reset_rows = torch.full_like(y, torch.nan), torch.full_like(y, torch.nan)
    for t in reversed(range(steps)):
        numbers |= {"product_rows": 0 if t == steps - 1 else batch, "prev_rows": batch if t > 0 else 0}
        inputs = {"dy": problem.dy[t], "gates": gates[t], "h0": problem.hx[0], "dh_product": dh_product}
        inputs |= {"y_prev": y[t - 1]} if t > 0 else {}
        outputs = {"dh": dh, "dgates": dgates[t], "h_operand": h_operand[t]}
        if reset_after:
            run(f"gru_step_bwd_{name}", numbers, inputs, outputs, schedule)
        else:
            run(f"gru_step_candidate_bwd_{name}", numbers, inputs, {**outputs, "reset": reset_rows[t]}, schedule)
            inputs["dreset"] = product(dgates[t, :, :hidden], w_hh[2 * hidden :])
            run(f"gru_step_reset_bwd_{name}", numbers, inputs, {**outputs, "reset": reset_rows[t]}, schedule)
        dh_product = product(dgates[t, :, hidden:], w_hh[: (count - 1) * hidden])

    rows = dgates.reshape(-1, count, hidden).to(acc)
    n, r, z, q = rows.unbind(1) if reset_after else (*rows.unbind(1), rows[:, 0])
    da_x, da_h = torch.cat([r, z, n], 1), torch.cat([r, z, q], 1)
    states, resets = h_operand.reshape(-1, hidden).to(acc), reset_rows.reshape(-1, hidden).to(acc)
    recurrent = da_h.t() @ states
    if not reset_after:
        recurrent[2 * hidden :] = n.t() @ resets
    results = {
        "y": y,
        "h_n": h[None],
        "dx": (da_x @ w_ih.to(acc)).view(x.shape),
        "dhx": (dh + dh_product)[None],
        "dweight_ih_l0": da_x.t() @ x.reshape(-1, x.shape[-1]).to(acc),
        "dweight_hh_l0": recurrent,
        "dbias_ih_l0": da_x.sum(0),
        "dbias_hh_l0": da_h.sum(0),
    }
    return {name: result.to(dtype) for name, result in results.items()}


def one_step(problem: Problem, schedule: Schedule) -> dict[str, Tensor]:
    """Y and h_n of (1, B, I), in one launch."""
    (_, batch, inputs), hidden = problem.x.shape, problem.weights[1].shape[1]
    assert problem.hx is not None
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    arguments = {**dict(zip(names, problem.weights, strict=True)), "x": problem.x, "h0": problem.hx}
    aligned = all(t.data_ptr() % 16 == 0 for t in arguments.values()) and all(
        n * problem.x.element_size() % 16 == 0 for n in (inputs, hidden)
    )
    y, h_n = (problem.x.new_full((1, batch, hidden), torch.nan) for _ in range(2))
    gates = problem.x.new_full((1, batch, 4, hidden), torch.nan)
    numbers = {"rows": batch, "H": hidden, "I": inputs, "aligned": aligned}
    outputs = {"y": y, "h_n": h_n, "gates": gates}
    run(f"gru_one_step_fwd_{NAMES[problem.x.dtype]}", numbers, arguments, outputs, schedule)
    return {"y": y, "h_n": h_n}


def normalise(values: Tensor, gain: Tensor, norms: int, d: Tensor, schedule: Schedule) -> dict[str, Tensor]:
    """Rows of r, z, n (B, 3H) normalised with gains, and the gradient of ``values`` for that of the result."""
    batch, hidden = values.shape[0], values.shape[1] // 3
    dtype, name = gain.dtype, NAMES[gain.dtype]
    numbers = {"rows": batch, "H": hidden, "norms": norms, "saved_stride": 3 * hidden + 8}
    normalised = values.to(acc_dtype_of(dtype), copy=True)
    saved, out = gain.new_full((batch, 3 * hidden + 8), torch.nan), gain.new_full((batch, 3 * hidden), torch.nan)
    kept: dict[str, Tensor | None] = {"hat": saved[:, : 3 * hidden], "inverse_std": saved[:, 3 * hidden :]}
    run(f"gru_step_norm_fwd_{name}", numbers, {"gain": gain}, {"values": normalised, **kept}, schedule)
    run(f"gru_step_norm_bwd_{name}", numbers, {"gain": gain, **kept, "d": d}, {"out": out}, schedule)
    return {"normalised": normalised.to(dtype), "dvalues": out}
