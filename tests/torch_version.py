"""The version of torch, for tests of what only later ones can do or refuse."""

import torch

TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
