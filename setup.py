"""Builds src/gru_ext/libgru_ext.so against the torch that is installed. See README.md for the commands."""

# isort: off
from __future__ import annotations

from build_backend import INSTALL, give_up  # first, as it says what is missing of setuptools

# isort: on
import os
import platform
import re
import runpy
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent
OLDEST_TORCH = (2, 6)
OLDEST_CUDA = (12, 4)  # has clusters and st.async
# Without a GPU to build for: of these, what nvcc knows; the newest as PTX too, for GPUs that come after it.
ARCHITECTURES = ("7.5", "8.0", "9.0", "10.0", "12.0")
OLDEST_GPU = (7, 5)
GIGABYTES_PER_JOB = 4  # what one nvcc may need
# Minutes of one core of a server: for what is compiled once, and for each architecture.
CORE_MINUTES, CORE_MINUTES_OF_ARCHITECTURE = 8, 2


class Toolkit(NamedTuple):
    """A CUDA toolkit."""

    home: Path
    version: tuple[int, int]

    def run_nvcc(self, *arguments: str) -> str:
        """What nvcc prints."""
        return subprocess.run([self.home / "bin" / "nvcc", *arguments], capture_output=True, text=True).stdout


def find_toolkit() -> Toolkit | str:
    """The toolkit of CUDA_HOME or CUDA_PATH where that is set, else of PATH or /usr/local/cuda; or what is missing."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    found = [Path(on_path).resolve().parent.parent] if on_path else []
    for home in [Path(named)] if named else [*found, Path("/usr/local/cuda")]:
        # An nvcc on PATH may be a script that starts another: a toolkit has its headers beside it.
        headers = [*home.glob("include/cuda_runtime.h"), *home.glob("targets/*/include/cuda_runtime.h")]
        if headers and (home / "bin" / "nvcc").exists():
            toolkit = Toolkit(home, (0, 0))
            release = re.search(r"release (\d+)\.(\d+)", toolkit.run_nvcc("--version"))
            return toolkit._replace(version=(int(release[1]), int(release[2]))) if release else f"{home} has no nvcc"
    return f"{named} has no nvcc and CUDA headers" if named else "no nvcc was found; set CUDA_HOME to a CUDA toolkit"


# torch.utils.cpp_extension looks for a toolkit when it is imported, and takes any nvcc for one.
TOOLKIT = find_toolkit()
if isinstance(TOOLKIT, Toolkit):
    os.environ["CUDA_HOME"] = str(TOOLKIT.home)

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    give_up(
        "no torch to build against is visible here; with torch installed, repeat the command with --no-build-isolation,"
        " as pip and uv hide it otherwise"
    )

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
    give_up(f"torch 2.6 or later is needed, found {torch.__version__}; run: pip install 'torch>=2.6'")


class CudaBuild(NamedTuple):
    """What is built for CUDA, and in words."""

    toolkit: Toolkit | None
    words: str


def capabilities_here() -> list[tuple[int, int]]:
    """Compute capabilities of the GPUs of this machine, each once."""
    if not torch.cuda.is_available():
        return []
    try:
        return sorted({torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())})
    except RuntimeError:  # another process may have a GPU for itself
        return []


def missing_for_cuda() -> str:
    """Why the CUDA kernels cannot be built; empty where they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if isinstance(TOOLKIT, str):
        return TOOLKIT
    version = ".".join(map(str, TOOLKIT.version))
    if TOOLKIT.version[0] != int(torch.version.cuda.split(".")[0]):
        return f"nvcc {version} cannot build for torch's CUDA {torch.version.cuda}"
    if TOOLKIT.version < OLDEST_CUDA:
        return f"nvcc {OLDEST_CUDA[0]}.{OLDEST_CUDA[1]} or later is needed, found {version}"
    here = capabilities_here()
    if here and here[-1] < OLDEST_GPU and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        found = ".".join(map(str, here[-1]))
        return f"a GPU of compute capability {OLDEST_GPU[0]}.{OLDEST_GPU[1]} or later is needed, found {found}"
    return ""


def choose_cuda() -> CudaBuild:
    """CUDA kernels where torch has CUDA and nvcc is found; GRU_EXT_CUDA=0 or 1 forces the choice."""
    forced = os.environ.get("GRU_EXT_CUDA", "")
    if forced not in ("", "0", "1"):
        give_up(f"expected GRU_EXT_CUDA to be 0 or 1, got {forced!r}")
    missing = "GRU_EXT_CUDA=0" if forced == "0" else missing_for_cuda()
    if missing and forced == "1":
        give_up(f"GRU_EXT_CUDA=1 asks for the CUDA kernels, but {missing}")
    if missing or isinstance(TOOLKIT, str):
        return CudaBuild(None, f"not built: {missing}")
    return CudaBuild(TOOLKIT, f"nvcc {'.'.join(map(str, TOOLKIT.version))} for {architectures(TOOLKIT)}")


def architectures(toolkit: Toolkit) -> str:
    """TORCH_CUDA_ARCH_LIST, or what is built without it, in its notation: for the GPUs here, else for all."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return asked
    printed = toolkit.run_nvcc("--list-gpu-arch")

    def known(names: list[str]) -> list[str]:
        return [name for name in names if re.search(rf"compute_{name.replace('.', '')}\b", printed)]

    here = [f"{major}.{minor}" for major, minor in capabilities_here() if (major, minor) >= OLDEST_GPU]
    if here and known(here) == here:
        return ";".join(here)
    return ";".join(known(list(ARCHITECTURES))) + "+PTX"


def gencode_flags(architectures: str) -> list[str]:
    """Flags of nvcc for a list like ``8.0;9.0+PTX``."""
    flags = []
    for name in architectures.split(";"):
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def cgroup_folders() -> list[Path]:
    """The control groups that this process is in, of version 1 or 2, and those around them."""
    folders = []
    for line in read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup") / controllers
            inner = root / path.lstrip("/")
            folders += [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]
    return folders


def read(path: Path) -> str:
    """The text of a file; empty where it cannot be had."""
    try:
        return path.read_text()
    except OSError:
        return ""


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control groups."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", read(Path("/proc/meminfo")))
    free = [int(available[1]) << 10] if available else [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in cgroup_folders():
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, usage = read(folder / most).strip(), read(folder / used).strip()
            # Of what is used, the kernel gives back the files that nobody has read for a while.
            files = re.search(r"^(?:total_)?inactive_file (\d+)$", read(folder / "memory.stat"), re.MULTILINE)
            if limit.isdigit() and usage.isdigit():
                free.append(int(limit) - int(usage) + (int(files[1]) if files else 0))
    return max(0, min(free))


def compilers_at_once() -> int:
    """MAX_JOBS, or one for each core for which there is the memory."""
    asked = os.environ.get("MAX_JOBS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, min(len(os.sched_getaffinity(0)), free_memory() // (GIGABYTES_PER_JOB << 30)))


class BuildExtension(cpp_extension.BuildExtension):
    """Compiles with ninja; says in one sentence what is missing before anything is compiled."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # The ninja that was installed beside this Python, though its environment may not be activated.
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
        super().__init__(*arguments, no_python_abi_suffix=True, **options)

    def build_extensions(self) -> None:
        """Say what is built for CUDA and how long that takes, check for ninja and a compiler, then build."""
        print(f"gru_ext: CUDA kernels: {CUDA.words}")
        if CUDA.toolkit is not None:
            jobs = compilers_at_once()
            of_core = CORE_MINUTES + CORE_MINUTES_OF_ARCHITECTURE * len(architectures(CUDA.toolkit).split(";"))
            print(
                f"gru_ext: about {-(-of_core // jobs)} minutes with {jobs} compilers at once: MAX_JOBS, or one for a"
                f" core with {GIGABYTES_PER_JOB} GB of free memory",
                flush=True,
            )
            os.environ["MAX_JOBS"] = str(jobs)
            os.environ.setdefault("NINJA_STATUS", "gru_ext: %f of %t files, %e seconds: ")
        if not cpp_extension.is_ninja_available():
            give_up(f"no ninja was found, which runs the compilers; {INSTALL}")
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler.split()[0]) is None:
            give_up(f"no C++ compiler '{compiler}' was found; on Debian or Ubuntu, run: apt-get install g++")
        absent = "no_cuda" if CUDA.toolkit else "cuda"
        for library in self.extensions:
            library.sources += [unit_of(host_side) for host_side in HOST_SIDES if host_side != absent]
        super().build_extensions()


class WheelOfAnyPython(bdist_wheel):
    """A wheel for every Python 3: the library has none of Python's symbols."""

    def get_tag(self) -> tuple[str, str, str]:
        """Of Python, its interface for C, and the platform."""
        return "py3", "none", super().get_tag()[2]


# Sources that include torch's headers, which take the compiler some times longer than they do themselves.
HOST_SIDES = {"op": "op/*.cpp", "cpu": "cpu/*.cpp", "cuda": "cuda/**/*.cpp", "no_cuda": "no_cuda/*.cpp"}


def unit_of(host_side: str) -> str:
    """One source for all of a host side, under build/; its path."""
    path = ROOT / "build" / "units" / f"{host_side}.cpp"
    sources = sorted(ROOT.glob(f"csrc/{HOST_SIDES[host_side]}"))
    text = "".join(f'#include "{source.relative_to(ROOT / "csrc")}"\n' for source in sources)
    if not path.exists() or path.read_text() != text:  # what is older than its object is not compiled again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(path.relative_to(ROOT))


def extension(version: str, cuda: CudaBuild) -> Extension:
    """Describe libgru_ext.so: every .cpp under csrc/ and every .cu, but for csrc/cuda or csrc/no_cuda."""
    # Compiled for OpenMP but not linked with a runtime: torch has loaded one, and two pools of threads would compete.
    flags = ["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-g0", "-fvisibility=hidden", "-fopenmp"]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-Wno-psabi")  # vectors wider than the baseline never cross a function that is not inlined
    flags += os.environ.get("GRU_EXT_CXXFLAGS", "").split()  # last, so that it can take away: sanitizers, -O1

    # Instruction sets of the CPU to have kernels for; all without it. Tools that look for faults need few.
    isas = os.environ.get("GRU_EXT_BUILD_ISAS", "").split()

    def is_built(path: Path) -> bool:
        of_isa = re.fullmatch(r"(?:kernels|int8)_(portable|avx.*)", path.stem)
        return not (isas and of_isa and of_isa[1] not in isas)

    def files(*patterns: str) -> list[str]:
        found = (path.relative_to(ROOT) for pattern in patterns for path in sorted(ROOT.glob(f"csrc/{pattern}")))
        return [str(path) for path in found if is_built(path)]

    arguments: dict[str, Any] = {
        "name": "gru_ext.libgru_ext",
        # Sources for one instruction set stay alone, as their pragmas hold to the end of the file.
        "sources": files("cpu/*/*.cpp"),
        "depends": files("**/*.h"),
        "include_dirs": [str(ROOT / "csrc")],
        "define_macros": [
            ("GRU_EXT_VERSION", f'"{version}"'),
            ("GRU_EXT_TORCH_VERSION", f'"{torch.__version__}"'),
            ("GRU_EXT_CUDA_BUILD", f'"{cuda.words}"'),
        ],
        "extra_compile_args": flags,
        # Programs that link it find it by this name, wherever it lies.
        "extra_link_args": ["-Wl,-soname,libgru_ext.so"] if platform.system() == "Linux" else [],
    }
    if cuda.toolkit is None:
        return without_python(cpp_extension.CppExtension(**arguments))
    nvcc_flags = ["-O3", "-Xfatbin=-compress-all", "-Xcompiler=-fvisibility=hidden"]
    if os.environ.get("GRU_EXT_LINEINFO", "0") not in ("", "0"):
        nvcc_flags.append("-lineinfo")  # most of a kernel's bytes
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):  # which torch reads; without it, it builds for this machine's GPUs
        nvcc_flags += gencode_flags(architectures(cuda.toolkit))
    arguments["sources"] += files("cuda/**/*.cu")
    arguments["depends"] = files("**/*.h", "**/*.cuh")
    arguments["extra_compile_args"] = {"cxx": flags, "nvcc": nvcc_flags}
    return without_python(cpp_extension.CUDAExtension(**arguments))


def without_python(library: Extension) -> Extension:
    """The library as programs without Python load it too: nothing of torch's Python part is linked."""
    library.libraries.remove("torch_python")
    return library


VERSION: str = runpy.run_path(str(ROOT / "src" / "gru_ext" / "version.py"))["__version__"]
CUDA = choose_cuda()

setup(ext_modules=[extension(VERSION, CUDA)], cmdclass={"build_ext": BuildExtension, "bdist_wheel": WheelOfAnyPython})
