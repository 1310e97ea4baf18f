"""Tests of blurtrain.

Several workers of pytest-xdist share the cores one each, before any library starts its threads: torch, OpenCV and
ONNX Runtime would each start as many threads as there are cores in every worker, and take twice as long for it.
"""

import os

_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if _WORKER and hasattr(os, "sched_setaffinity"):
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})
