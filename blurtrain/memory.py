"""Keep the memory that large arrays leave, where the C library can."""

import ctypes
import sys

TRIM, MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
MOST = 1 << 30  # bytes of one array; larger ones are given back as ever


def keep_freed() -> None:
    """Let what is freed serve the next array, for the life of this process.

    Otherwise glibc gives every array above 32 MiB back to the system, which clears its pages anew for the next one:
    where a network's layers follow one another, that is a tenth of the time. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return
    adjust(TRIM, MOST)
    adjust(MAP, MOST)
