"""In the place of nvcc in a build of ``cuda-check``: gives it the objects that an earlier one has compiled.

``PYTORCH_NVCC="python tests/take_objects.py FOLDER"`` for the temporary folder of that build. No source for nvcc
knows of torch, so that its object serves with every torch; where one does, that is an error here.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from building import INCLUDE, with_included
from process import ROOT

OF_TORCH = re.compile(r"(torch|ATen|c10|caffe2)/|Python\.h")


def what_knows_torch(source: Path) -> list[str]:
    """The files of ``csrc`` that a source includes, and that include torch's or are told which torch it is."""
    found = []
    for path in with_included(source, [ROOT / "csrc"]):
        text = path.read_text()
        if any(OF_TORCH.match(name) for name in INCLUDE.findall(text)) or "GRU_EXT_TORCH_VERSION" in text:
            found.append(str(path.relative_to(ROOT)))
    return found


def main() -> None:
    """``FOLDER ... -c SOURCE -o OBJECT``, flags of nvcc between them."""
    folder, *flags = sys.argv[1:]
    (source,) = (Path(flag) for flag in flags if flag.endswith(".cu"))
    made = Path(flags[flags.index("-o") + 1])
    if found := what_knows_torch(source):
        sys.exit(f"{source.name} is of one torch alone, because of {', '.join(found)}")
    shutil.copyfile(Path(folder) / source.resolve().relative_to(ROOT.resolve()).with_suffix(".o"), made)


if __name__ == "__main__":
    main()
