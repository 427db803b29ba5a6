"""The fastest exact GRU for PyTorch: hand-written kernels behind a drop-in ``nn.Module``."""

import torch as _torch  # noqa: F401  gru_ext._C needs torch's libraries to be loaded

try:
    from gru_ext import _C as _C
except ImportError as error:
    raise ImportError(
        f"gru_ext's compiled module could not be loaded ({error}). Build it against the torch that is installed, in a"
        " checkout of the source: pip install --no-build-isolation -e . (installed without -e, gru_ext is found only"
        " from outside of the checkout)"
    ) from error

from gru_ext import convert as convert
from gru_ext import functional as functional
from gru_ext.kernel_choice import kernels, use_cuda_kernels
from gru_ext.modules import GRU, GRUCell
from gru_ext.quantize import QuantizedGRU, QuantizedGRUCell, quantize_dynamic
from gru_ext.replace import replace_gru
from gru_ext.training import truncated
from gru_ext.version import __version__

__all__ = [
    "GRU",
    "GRUCell",
    "QuantizedGRU",
    "QuantizedGRUCell",
    "__version__",
    "convert",
    "functional",
    "kernels",
    "quantize_dynamic",
    "replace_gru",
    "truncated",
    "use_cuda_kernels",
]
