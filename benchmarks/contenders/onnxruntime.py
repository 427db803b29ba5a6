"""ONNX Runtime on the CPU: inference in float32."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.contenders import onnx_graph
from benchmarks.contenders.base import Contender, Problem, Step


class OnnxRuntime(Contender):
    """ONNX Runtime's GRU operator; inputs and outputs bound beforehand, so that a call copies nothing."""

    name = "onnxruntime"
    distribution = "onnxruntime"
    modules = ("onnxruntime", "onnx")
    reset_after: ClassVar[bool] = True  # which recurrence its operator computes
    configuration = "CPUExecutionProvider, intra-op threads as the others, every graph optimization, bound memory"

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Training, other dtypes than float32, a GPU."""
        if problem.kind != "forward":
            return "inference only"
        if problem.dtype != torch.float32:
            return "its GRU computes in float32 only"
        return None if problem.device.type == "cpu" else "its GRU runs on the CPU here"

    def __init__(self, problem: Problem) -> None:
        import onnxruntime

        self.size, self.model, self.library = problem.size, onnx_graph.build(problem, self.reset_after), onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = problem.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return onnx_graph.read_weights(self.model, self.size)

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        value = self.library.OrtValue.ortvalue_from_numpy
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("x", value(x.numpy()))
        binding.bind_ortvalue_output("y", value(torch.empty_like(dy).numpy()))

        def forward() -> Any:
            self.session.run_with_iobinding(binding)
            return binding

        return forward

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        return {"y": torch.from_numpy(returned.copy_outputs_to_cpu()[0])}
