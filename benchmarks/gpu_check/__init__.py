"""Everything that only a GPU can show, in the minutes that one is lent for, in order of value.

    python3 -m benchmarks.gpu_check --out DIR --seconds 480
    python3 -m benchmarks.gpu_check --out DIR --seconds 180 --sanitize
    python3 -m benchmarks.gpu_check --out DIR --seconds 60 --rehearse      (needs no GPU)

A stage (stages.py) is a list of rows, such as one kernel, or one size. It is a process of its own (worker.py) with a
part of the time, under a parent that imports no torch (runner.py). A row is on disk as soon as it is known
(journal.py). A row that crashes, hangs or leaves CUDA in an error costs itself: the stage is started again at the next
row. A stage without time left leaves its other rows as not reached; the same command again goes on there.

docs/gpu-checklist.md says what each stage shows, and what to do with the result.
"""
