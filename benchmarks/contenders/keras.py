"""Keras 3 on JAX: ``keras.layers.GRU(reset_after=True)``, forward and training under ``jax.jit``."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Problem, Step
from gru_ext import convert

# Measured on two cores: unrolled, forward takes 0.6 to 1.0 times as long as with a loop, training 1.0 to 6 times; what
# is unrolled takes a second to compile for 50 steps.
LONGEST_UNROLLED = 64
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def _array(tensor: Tensor, dtype: str) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(tensor.detach().float().cpu().numpy(), dtype=dtype)


def _tensor(array: Any) -> Tensor:
    import numpy

    return torch.from_numpy(numpy.asarray(array, dtype="float32").copy())


class Keras(Contender):
    """Keras computes batch-first: x and dy are laid out (B, T, I) beforehand, and results turned back."""

    name = "keras"
    distribution = "keras"
    modules = ("keras", "jax")
    configuration = (
        "keras.layers.GRU(reset_after=True), JAX backend, one jitted function a pass, (B, T, I) input; forward up to"
        f" {LONGEST_UNROLLED} steps with unroll=True"
    )

    @classmethod
    def absent(cls) -> str | None:
        """Keras reads its backend once, when it is first imported."""
        if reason := super().absent():
            return reason
        keras = sys.modules.get("keras")
        if keras is not None and keras.config.backend() != "jax":
            return "Keras was imported with another backend than JAX"
        return None

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """float64, and another number of threads than the first: XLA starts its threads once a process."""
        if problem.dtype not in DTYPES:
            return "JAX leaves float64 out unless told otherwise"
        if "jax" in sys.modules and os.environ.get("NPROC") != str(problem.threads):
            return "XLA keeps the number of threads that it started with"
        return None

    def __init__(self, problem: Problem) -> None:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        os.environ.setdefault("NPROC", str(problem.threads))  # the size of XLA's thread pool
        if problem.device.type == "cpu":
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax
        import keras

        self.jax, self.problem, self.dtype = jax, problem, DTYPES[problem.dtype]
        size = problem.size
        layers = [
            keras.layers.GRU(
                size.H,
                return_sequences=True,
                unroll=problem.kind == "forward" and size.T <= LONGEST_UNROLLED,
                # Replaced below; orthogonal ones, the default, need a decomposition in float32.
                recurrent_initializer="zeros",
                dtype=self.dtype,
            )
            for _ in range(size.L)
        ]
        self.model = keras.Sequential(
            [keras.layers.Bidirectional(layer, dtype=self.dtype) for layer in layers] if size.D == 2 else layers
        )
        self.model.build((size.B, size.T, size.inputs))
        self.variables = [jax.numpy.asarray(array) for array in convert.to_keras_weights(problem.module)]
        others = [variable.value for variable in self.model.non_trainable_variables]

        def forward(variables: Any, x: Any) -> Any:
            return self.model.stateless_call(variables, others, x)[0]

        def train(variables: Any, x: Any, dy: Any) -> Any:
            return jax.vjp(forward, variables, x)[1](dy)

        self.forward, self.train = jax.jit(forward), jax.jit(train)
        self.linearize = jax.jit(lambda variables, x: jax.vjp(forward, variables, x)[1])
        self.backward = jax.jit(lambda pullback, dy: pullback(dy))

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return self._as_torch(self.variables)

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        variables, wait = self.variables, self.jax.block_until_ready
        inputs, gradient = _array(x.transpose(0, 1), self.dtype), _array(dy.transpose(0, 1), self.dtype)
        if self.problem.kind == "forward":
            return lambda: wait(self.forward(variables, inputs))
        if self.problem.kind == "train":
            return lambda: wait(self.train(variables, inputs, gradient))
        pullback = wait(self.linearize(variables, inputs))
        return lambda: wait(self.backward(pullback, gradient))

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        if self.problem.kind == "forward":
            return {"y": _tensor(returned).transpose(0, 1)}
        dvariables, dx = returned
        gradients = self._as_torch(dvariables)
        return {
            "dx": _tensor(dx).transpose(0, 1),
            **{f"d{name}": gradient for name, gradient in gradients.items()},
        }

    def _as_torch(self, arrays: Any) -> dict[str, Tensor]:
        """Weights, or gradients, which are laid out as they are, in the names and layout of ``nn.GRU``."""
        bidirectional = self.problem.size.D == 2
        return convert.from_keras_weights([_tensor(a) for a in arrays], bidirectional=bidirectional).state_dict()
