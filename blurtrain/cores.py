"""How many cores this process may use."""

import os


def cores() -> int:
    """Those that the scheduler gives it, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
