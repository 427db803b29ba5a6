"""Python programs as forks of this process, which has imported torch and has called nothing of it.

``process.fork_python`` starts it. Each line of its input is a program; its answers are their exit statuses.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

import torch._dynamo  # noqa: F401  # which quantize_dynamic and torch.export would import


def serve() -> list[str]:
    """Start one program after the other; returns in each fork alone, what it is to run: the arguments of ``python``."""
    gc.freeze()  # or each fork would go through all objects of torch when it ends
    for line in sys.stdin:
        program = json.loads(line)
        fork = os.fork()
        if fork == 0:
            signal.alarm(program["seconds"])
            for stream, path in enumerate((os.devnull, program["output"], program["errors"])):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
            os.environ.clear()
            os.environ.update(program["environment"])
            sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
            arguments: list[str] = program["arguments"]
            return arguments
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)
    sys.exit()


def run(arguments: list[str]) -> None:
    """As ``python arguments...`` would."""
    first, *rest = arguments
    if first == "-W":
        warnings.simplefilter("error")
        assert rest[0] == "error"
        run(rest[1:])
    elif first == "-c":
        sys.argv = [first, *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    run(serve())
