"""Memory of the CPU kernels: what they keep, and what happens where there is none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch
from process import output_of, run_python

import gru_ext

# Makes allocations of a process fail: the n-th after `fail_nth(n)`, once.
FAILING_ALLOCATIONS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static _Atomic long left = 0;

void fail_nth(long n) { left = n; }
long allocations_left(void) { return left; }
static int fails(void) { return left > 0 && --left == 0; }

void* malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void* realloc(void* old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void* memalign(size_t alignment, size_t size) { return fails() ? NULL : __libc_memalign(alignment, size); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** target, size_t alignment, size_t size) {
  void* data = memalign(alignment, size);
  if (data == NULL) return ENOMEM;
  *target = data;
  return 0;
}
"""

EVERY_ALLOCATION = """
import ctypes
import functools

import torch

import gru_ext
from gru_ext.variant import Variant

torch.set_num_threads(1)  # OpenMP's own runtime ends the process where it finds no memory
fault = ctypes.CDLL(None)
ops = torch.ops.gru_ext


def solve(x, hx, weights, members, save_gates, variant):
    forward, backward = (ops.gru_fwd_members, ops.gru_bwd_members) if members else (ops.gru_fwd, ops.gru_bwd)
    y, h_n, gates = forward(x, hx, weights, None, True, save_gates=save_gates, **variant)
    dx, dhx, dweights = backward(y, h_n, x, hx, weights, None, True, y, gates, True, True, True, **variant)
    return [y, h_n, gates, dx, dhx, *dweights]


def problem(dtype, members):
    first = (2,) if members else ()
    weights = [torch.randn(*first, *shape, dtype=dtype) / 16 for shape in ((768, 300), (768, 256), (768,), (768,)) * 2]
    return torch.randn(*first, 3, 200, 300, dtype=dtype), torch.randn(*first, 2, 200, 256, dtype=dtype), weights


def attempts(call):
    # Fails each allocation of a call in turn; the pool full and empty. Returns how many calls failed.
    failed = 0
    for empties in (False, True):
        call()
        n = 0
        while True:
            n += 1
            if empties:
                gru_ext.empty_cache()
            fault.fail_nth(n)
            try:
                call()
            except (RuntimeError, MemoryError):
                failed += 1
            reached = fault.allocations_left() == 0
            fault.fail_nth(0)
            if not reached:
                break
    return failed


for name, dtype, members, save_gates, variant in (
    ("float32", torch.float32, False, True, {}),
    ("bfloat16, gates computed again", torch.bfloat16, False, False, {}),
    ("members", torch.float32, True, True, {}),
    ("reset gate before", torch.float32, False, True, {"reset_after": False}),
):
    call = functools.partial(solve, *problem(dtype, members), members, save_gates, variant)
    expected = call()
    failed = attempts(call)
    assert failed > 20, f"{name}: {failed}"
    assert all(torch.equal(a, b) for a, b in zip(call(), expected)), name
seed = torch.tensor(5)
expected = ops.bernoulli(seed, (1000, 3000), 0.5)
attempts(lambda: ops.bernoulli(seed, (1000, 3000), 0.5))
assert torch.equal(ops.bernoulli(seed, (1000, 3000), 0.5), expected)
print("alive")
"""


def test_a_call_of_which_any_allocation_fails_raises_and_the_next_is_right(tmp_path: Path) -> None:
    source, library = tmp_path / "fault.c", tmp_path / "fault.so"
    source.write_text(FAILING_ALLOCATIONS)
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
    result = run_python("-c", EVERY_ALLOCATION, environment={"LD_PRELOAD": str(library)})
    assert output_of(result) == "alive\n"


# A call that needs what the pool keeps: buffers of other sizes than its own.
LITTLE_MEMORY = """
import resource

import torch

import gru_ext

torch.set_num_threads(1)
weights = [torch.randn(192, size) for size in (64, 64)]
gru = lambda rows: torch.ops.gru_ext.gru_fwd(torch.zeros(1, rows, 64), None, weights, None, False, True)
for rows in range(20_000, 60_000, 4_000):
    gru(rows)
x = torch.zeros(1, 180_000, 64)
expected = torch.ops.gru_ext.gru_fwd(x, None, weights, None, False, True)[0][0, 0]
gru_ext.empty_cache()
for rows in range(20_000, 60_000, 4_000):
    gru(rows)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (100 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
y = torch.ops.gru_ext.gru_fwd(x, None, weights, None, False, True)[0]
assert torch.equal(y[0, 0], expected)
print("done")
"""


def test_a_call_without_memory_takes_back_what_is_kept() -> None:
    assert output_of(run_python("-c", LITTLE_MEMORY)) == "done\n"


def test_empty_cache_gives_back_what_is_kept() -> None:
    gru_ext.empty_cache()
    assert gru_ext.empty_cache() == 0
    module = gru_ext.GRU(4, 64)
    with torch.no_grad():
        module(torch.zeros(100, 100, 4))
    kept = gru_ext.empty_cache()
    assert kept >= 100 * 100 * 64 * 4
    assert gru_ext.empty_cache() == 0
