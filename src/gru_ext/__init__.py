"""An exact GRU for PyTorch that is faster than torch.nn's: hand-written kernels behind a drop-in ``nn.Module``."""

from gru_ext import convert as convert
from gru_ext import flops as flops
from gru_ext import functional as functional
from gru_ext import tracing as tracing  # registers what torch.compile needs
from gru_ext.kernel_choice import autotune, kernels, use_cuda_kernels
from gru_ext.library import empty_cache
from gru_ext.modules import GRU, GRUCell
from gru_ext.prepared import PreparedGRU, PreparedGRUCell, prepare
from gru_ext.quantize import QuantizedGRU, QuantizedGRUCell, fake_quantize, quantize_dynamic
from gru_ext.replace import replace_gru, to_torch
from gru_ext.training import truncated
from gru_ext.version import __version__

__all__ = [
    "GRU",
    "GRUCell",
    "PreparedGRU",
    "PreparedGRUCell",
    "QuantizedGRU",
    "QuantizedGRUCell",
    "__version__",
    "autotune",
    "convert",
    "empty_cache",
    "fake_quantize",
    "functional",
    "kernels",
    "prepare",
    "quantize_dynamic",
    "replace_gru",
    "to_torch",
    "truncated",
    "use_cuda_kernels",
]
