"""One small adapter for each contender: the same weights and inputs, in its own form and best known configuration."""

from __future__ import annotations

from benchmarks.contenders.base import Contender, Problem, Step
from benchmarks.contenders.compile import Compile
from benchmarks.contenders.cudnn import Cudnn, CudnnDynamic, CudnnSmallH, CudnnStandard, CudnnStatic
from benchmarks.contenders.flashrnn import FlashRNN
from benchmarks.contenders.gru_ext import GruExt, GruExtOutput, GruExtPrepared
from benchmarks.contenders.haste import Haste
from benchmarks.contenders.keras import Keras
from benchmarks.contenders.onnxruntime import OnnxRuntime
from benchmarks.contenders.openvino import OpenVINO
from benchmarks.contenders.torch import Torch

__all__ = ["CUDNN", "ON_REQUEST", "OURS", "PEERS", "Contender", "GruExt", "Problem", "Step"]

OURS = GruExt.name
PEERS: dict[str, type[Contender]] = {
    peer.name: peer
    for peer in (
        Torch,
        Compile,
        OnnxRuntime,
        OpenVINO,
        Keras,
        Haste,
        FlashRNN,
        CudnnStatic,
        CudnnDynamic,
        GruExtOutput,
        GruExtPrepared,
    )
}
CUDNN: tuple[type[Cudnn], ...] = (CudnnStandard, CudnnStatic, CudnnDynamic, CudnnSmallH)
ON_REQUEST: dict[str, str] = {name: reason for name, peer in PEERS.items() if (reason := peer.on_request)}
