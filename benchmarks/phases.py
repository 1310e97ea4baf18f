"""Where the time of a cold comparison goes, from a profile of py-spy, which pip installs.

    py-spy record --idle --threads --rate 50 --format raw --output profile.txt -- blurtrain compare ...
    python benchmarks/phases.py profile.txt

Seconds of the main thread, waiting included, by the first of these that stands on its stack.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from timing import table

PHASES = {
    "imports": r"_find_and_load|import_module|_handle_fromlist",
    "reading images": r"(decode_missing|_decode_missing) ",
    "hashing files": r"(keys_of|_keys) |reduced \(blurtrain",
    "importing and exporting the network": r"(load \(blurtrain/backbones|build \(blurtrain/engines|fingerprint)",
    "blur and backbone": r"extract \(",
    "fitting heads": r"fit \(blurtrain/fitting|_fit_features",
    "sweep": r"_sweep \(",
    "TensorBoard": r"_write_events|write_comparison",
    "comparison and its picture": r"compare_runs|terminal_table",
}


def main() -> None:
    """Read a profile and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, nargs="+")
    parser.add_argument("--rate", type=float, default=50.0)
    words = parser.parse_args()
    columns = []
    for path in words.profile:
        found: Counter[str] = Counter()
        for line in path.read_text(encoding="utf-8").splitlines():
            stack, _, count = line.rpartition(" ")
            if "MainThread" not in stack.partition(";")[0] and "thread (" in stack.partition(";")[0]:
                continue
            phase = next((name for name, pattern in PHASES.items() if re.search(pattern, stack)), "the rest")
            found[phase] += int(count)
        columns.append(found)
    names = [*PHASES, "the rest"]
    rows = [[name, *(f"{column[name] / words.rate:.1f}" for column in columns)] for name in names]
    rows.append(["in all", *(f"{sum(column.values()) / words.rate:.1f}" for column in columns)])
    print(table(["seconds in", *(path.stem for path in words.profile)], rows))


if __name__ == "__main__":
    main()
