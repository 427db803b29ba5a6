"""Products by the tiles of Intel AMX: the library's own instructions, emulated where the machine lacks them."""

from __future__ import annotations

from pathlib import Path

import amx
import pytest
from amx import with_bf16
from process import fork_python, output_of

from gru_ext import library

VARIABLE = "GRU_EXT_CPU_ISA"


@pytest.fixture(scope="module")
def emulator() -> Path:
    return amx.build()


BITS = """
import sys
from pathlib import Path

import amx
import torch
from building import digest_of

import gru_ext
from gru_ext.info import info

emulator = amx.load(Path(sys.argv[1]))
if not amx.HAS_TILES:
    amx.answer(0)
isa = gru_ext.library.cpu_isa()
torch.set_num_threads(2)


def bits(*tensors):
    return digest_of(*(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors))


VARIANTS = {
    "plain": {},
    "both": {"bidirectional": True, "bias": False},
    "reset before": {"reset_after": False},
    "layer norm": {"layer_norm": True},
    "masked": {"zoneout": 0.2, "recurrent_dropout": 0.3, "candidate_dropout": 0.1},
    "masked, reset before": {"recurrent_dropout": 0.3, "reset_after": False},
}
# Rows of a step: one tile, two, two that share rows, three and more; I and H: less than a tile has, with and without a
# rest, odd. The last has so few rows that weights of bfloat16 are not packed.
SIZES = [(4, 5, 9, 20), (4, 17, 33, 40), (5, 33, 32, 64), (2, 50, 70, 33), (3, 2, 5, 3), (20, 16, 1, 16)]
SIZES.append((2, 18, 50, 39))


def results_of(options, dtype, T, B, I, H):
    torch.manual_seed(0)
    module = gru_ext.GRU(I, H, **options).to(dtype)
    x = torch.randn(T, B, I).to(dtype).requires_grad_()
    hx = torch.randn(2 if module.bidirectional else 1, B, H).to(dtype).requires_grad_()
    y, h_n = module(x, hx)
    torch.autograd.backward((y, h_n), (torch.randn_like(y), torch.randn_like(h_n)))
    return y, h_n, x.grad, hx.grad, *(p.grad for p in module.parameters())


for name, options in VARIANTS.items():
    for T, B, I, H in SIZES:
        print(name, T, B, I, H, bits(*results_of(options, torch.bfloat16, T, B, I, H)))
torch.manual_seed(0)
module = gru_ext.GRU(24, 40).bfloat16().eval()
packed = torch.nn.utils.rnn.pack_sequence([torch.randn(n, 24).bfloat16() for n in (5, 4, 4, 1)])
print("packed", bits(module(packed)[0].data))
print("prepared", bits(gru_ext.prepare(module)(torch.randn(1, 1, 24).bfloat16())[0]))
for precision in ("high", "medium"):
    torch.set_float32_matmul_precision(precision)
    for T, B, I, H in SIZES:
        for name, options in VARIANTS.items():
            print(precision, name, T, B, I, H, bits(*results_of(options, torch.float32, T, B, I, H)))
torch.set_float32_matmul_precision("highest")
for T, B, I, H in SIZES:
    module = gru_ext.quantize_dynamic(gru_ext.GRU(I, H, bidirectional=True))
    print("int8", T, B, I, H, bits(*module(torch.randn(T, B, I))))
assert emulator.threads_that_hold_tiles() == 0
if isa == "avx512_amx" and not amx.HAS_TILES:
    assert emulator.products_of_tiles() > 10000
print(info()["cpu kernels"], file=sys.stderr)
"""


@with_bf16
def test_the_bits_are_those_of_the_portable_tiles(emulator: Path) -> None:
    """Of results and gradients; and no thread holds tiles after a call."""
    by = {
        isa: fork_python("-c", BITS, emulator, environment={VARIABLE: isa, "GRU_EXT_CPU_WAIT": "0.1"})
        for isa in ("avx512_amx", amx.PORTABLE)
    }
    assert output_of(by["avx512_amx"]) == output_of(by[amx.PORTABLE])
    assert len(output_of(by["avx512_amx"]).splitlines()) == 135
    assert by["avx512_amx"].stderr.startswith("avx512_amx in use, of ")


NOT_PACKED = """
import torch
from compare import assert_same_bits

import gru_ext

VARIANTS = [{}, {"bidirectional": True}, {"reset_after": False}, {"layer_norm": True}, {"bias": False, "num_layers": 2}]
# All of so few steps and rows that calls do not pack; of the last one, each direction has two threads where there are
# four.
SIZES = [(1, 1, 1, 20), (1, 5, 17, 16), (2, 16, 64, 64), (2, 17, 33, 40), (2, 50, 100, 130), (4, 2, 300, 7)]
for T, B, I, H in [*SIZES, (12, 16, 64, 256)]:
    for options in VARIANTS:
        torch.manual_seed(0)
        module = gru_ext.GRU(I, H, **options).bfloat16().eval()
        states = module.num_layers * (2 if module.bidirectional else 1)
        x, hx = torch.randn(T, B, I).bfloat16(), torch.randn(states, B, H).bfloat16()
        prepared = gru_ext.prepare(module)
        for threads in (1,) if module.layer_norm else (1, 3, 4):
            torch.set_num_threads(threads)
            assert_same_bits(module(x, hx), prepared(x, hx), f"{options} {(T, B, I, H)} on {threads} threads")
print("the same")
"""


@with_bf16
def test_weights_that_are_not_packed_give_the_bits_of_packed_ones() -> None:
    """Of bfloat16: x and the states change their places with the weights in a tile's product, and nothing else."""
    environment = {VARIABLE: amx.PORTABLE, "GRU_EXT_CPU_WAIT": "0.1", "GRU_EXT_CPU_CORES": "8"}
    assert output_of(fork_python("-c", NOT_PACKED, environment=environment)) == "the same\n"


FORKED = """
import os
import sys
from pathlib import Path

import amx
import torch

import gru_ext

emulator = amx.load(Path(sys.argv[1]))
if not amx.HAS_TILES:
    amx.answer(0)
torch.set_num_threads(2)
torch.manual_seed(0)
layer = gru_ext.GRU(64, 64)
layers = {"bf16": (gru_ext.GRU(64, 64).bfloat16(), torch.bfloat16), "int8": (gru_ext.quantize_dynamic(layer), None)}
states = {}


def same(name):
    module, dtype = layers[name]
    with torch.no_grad():
        y, _ = module(torch.ones(10, 24, 64, dtype=dtype))  # few enough for torch to compare on one thread
    return torch.equal(states.setdefault(name, y), y)


before = [same(name) for name in layers]  # tiles are allowed, and the threads that OpenMP keeps have had some
child = os.fork()
if child == 0:
    of_parent = emulator.products_of_tiles()
    right = all(same(name) for name in layers) and gru_ext.library.cpu_isa() == "avx512_amx"
    used = amx.HAS_TILES or emulator.products_of_tiles() > of_parent
    os._exit(not (right and used and emulator.threads_that_hold_tiles() == 0))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *map(same, layers))
"""


@with_bf16
def test_a_forked_child_has_tiles_of_its_own(emulator: Path) -> None:
    """Linux's permission is inherited; the child computes on one thread, and holds none after a call."""
    environment = {VARIABLE: "avx512_amx", "GRU_EXT_CPU_WAIT": "0.1"}
    assert output_of(fork_python("-c", FORKED, emulator, environment=environment)) == "0 True True\n"


OPERATIONS = """
import sys
from pathlib import Path

import amx

emulator = amx.load(Path(sys.argv[1]))
print(emulator.differences(3000), emulator.wrong_products())
"""


@pytest.mark.skipif(
    "fma" not in amx.FEATURES or bool(amx.REFUSED), reason=amx.REFUSED or "the emulator needs fused multiply-adds"
)
def test_operations_and_products(emulator: Path) -> None:
    """Random operations by both back ends: any shape, any bits, subnormal numbers. Products of rows beside sums.

    And gates that wait for products.
    """
    assert output_of(fork_python("-c", OPERATIONS, emulator)) == "0 0\n"


CHOICE = """
import sys
from pathlib import Path

import amx

from gru_ext import GRU, library
from gru_ext.info import info
import torch

number, wrong = int(sys.argv[2]), sys.argv[3] == "wrong"
emulator = amx.load(Path(sys.argv[1]), wrong=wrong)
amx.answer(number)
GRU(3, 4).bfloat16()(torch.zeros(5, 2, 3).bfloat16())
print(library.cpu_isa(), library.available_cpu_isas()[-1])
print(info()["cpu kernels"].split("; ")[1])
"""


WITHOUT_TILES = [isa for isa in library.available_cpu_isas() if isa != "avx512_amx"][-1]


def choose(emulator: Path, number: int, tiles: str = "right", named: str = "") -> tuple[str, str]:
    """What a process prints, and its errors, where Linux answers with a number and the variable names so."""
    result = fork_python("-c", CHOICE, emulator, str(number), tiles, environment={VARIABLE: named})
    return output_of(result), result.stderr


@with_bf16
@pytest.mark.parametrize(
    ("number", "reason"), [(-1, "the processor has none"), (28, "Linux refuses them: No space left on device")]
)
def test_without_tiles_the_next_instruction_set_serves(emulator: Path, number: int, reason: str) -> None:
    assert choose(emulator, number) == (f"{WITHOUT_TILES} {WITHOUT_TILES}\nno tiles: {reason}\n", "")


@with_bf16
@pytest.mark.skipif(amx.HAS_TILES, reason="the tiles of this machine are not to be made wrong")
def test_tiles_that_compute_something_else_are_not_used(emulator: Path) -> None:
    printed, errors = choose(emulator, 0, "wrong")
    assert printed == f"{WITHOUT_TILES} {WITHOUT_TILES}\nno tiles: they do not compute what they should\n"
    assert errors.count("do not compute what they should; they are not used") == 1


@with_bf16
@pytest.mark.skipif(amx.HAS_TILES, reason="this machine needs no emulator")
def test_tiles_that_may_be_used_are(emulator: Path) -> None:
    assert choose(emulator, 0) == ("avx512_amx avx512_amx\nGRU_EXT_CPU_ISA chooses\n", "")


@with_bf16
def test_nothing_is_asked_for_where_the_variable_names_another_instruction_set(emulator: Path) -> None:
    printed, _ = choose(emulator, 0, named="avx2")
    assert printed == f"avx2 {WITHOUT_TILES}\nno tiles: GRU_EXT_CPU_ISA names no kernels for them\n"
