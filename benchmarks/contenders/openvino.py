"""OpenVINO on the CPU: inference, in float32 or with bfloat16 inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import onnx_graph
from benchmarks.contenders.base import Contender, Problem, Step

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINO(Contender):
    """OpenVINO's CPU plugin on the ONNX graph; inputs and outputs shared, so that a call copies nothing."""

    name = "openvino"
    distribution = "openvino"
    modules = ("openvino", "onnx")
    configuration = "CPU plugin, PERFORMANCE_HINT LATENCY, one stream, threads as the others; float32 at its interface"

    @classmethod
    def refuses(cls, problem: Problem) -> str | None:
        """Training, dtypes it does not compute in, a GPU."""
        if problem.kind != "forward":
            return "inference only"
        if problem.dtype not in PRECISIONS:
            return "computes in float32 or bfloat16 only"
        return None if problem.device.type == "cpu" else "runs on the CPU here"

    def __init__(self, problem: Problem) -> None:
        import openvino

        self.size, self.model, self.library = problem.size, onnx_graph.build(problem), openvino
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(self.model),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": problem.threads,
                "INFERENCE_PRECISION_HINT": PRECISIONS[problem.dtype],
            },
        )
        self.request = compiled.create_infer_request()

    def weights(self) -> dict[str, Tensor]:  # noqa: D102
        return onnx_graph.read_weights(self.model, self.size)

    def step(self, x: Tensor, dy: Tensor) -> Step:  # noqa: D102
        tensor = self.library.Tensor(x.float().numpy(), shared_memory=True)

        def forward() -> Any:
            return self.request.infer({0: tensor}, share_inputs=True, share_outputs=True)

        return forward

    def results(self, returned: Any) -> dict[str, Tensor]:  # noqa: D102
        return {"y": torch.from_numpy(returned[0].copy())}
