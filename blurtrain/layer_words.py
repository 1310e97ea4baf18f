"""Words, numbers and lines of the tables of layers."""

from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10
from textwrap import fill
from typing import Any

from blurtrain.report import aligned

WIDTH = 100  # characters of a line
NARROWEST = 10  # characters that are left of a name
NAMED = 4  # layers that a reason names

Part = Mapping[str, Any]  # a piece of the result
Number = float | int  # JSON has either


def number(value: Number | None) -> str:
    """Three digits, the side of 1 that it is on where these do not tell, or a dash where there is no number."""
    if value is None or not isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 9999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if abs(value - round(value)) < 1e-9 and abs(value) < 10:
        return str(round(value))
    text = f"{value:.{max(0, 2 - floor(log10(abs(value))))}f}"
    if float(text) == 1:
        return "<1.00" if value < 1 else ">1.00"  # whether a constant is below 1 is what matters
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text[:3] else text


def power(value: Number) -> str:
    """What is too large to have digits that matter, as a power of ten."""
    return f"10^{round(log10(value))}" if value >= 1e4 else number(value)


def shortened(name: str, most: int) -> str:
    """A name in one line without its middle, where it has more than so many characters."""
    name = " ".join(name.split())
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}~{name[len(name) - end :]}"


def blur_name(blur: Part) -> str:
    """Its name, with the angle in few characters."""
    return str(blur["name"]).replace(" at ", " ").replace(" degrees", "°")


def evenly(n: int, most: int) -> list[int]:
    """So many places of n at most, spread evenly from the first to the last."""
    if n <= most:
        return list(range(n))
    return [round(place * (n - 1) / (most - 1)) for place in range(most)] if most > 1 else [n - 1]


def wrapped(text: str, indent: str = "") -> str:
    """Lines of text; the indent begins the first one, and twice it the others."""
    return fill(text, WIDTH, break_on_hyphens=False, initial_indent=indent, subsequent_indent=2 * indent)


def said(value: Number | None) -> str:
    """The same inside a sentence."""
    return "unknown" if value is None else number(value)


def plural(n: int, word: str) -> str:
    """A count with its noun."""
    return f"{n:,} {word}{'s' * (n != 1)}"


def named(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    some = ", ".join(shortened(name, 40) for name in names[:NAMED])
    return f"{some} and {len(names) - NAMED} more" if len(names) > NAMED else some


def ruled(
    rows: Sequence[Sequence[str]],
    shrink: Sequence[int],
    heads: int = 1,
    left: Sequence[int] = (0,),
    narrowest: int = NARROWEST,
) -> str:
    """A table with a rule below its heading.

    Args:
        rows: Cells, the heading first.
        shrink: Columns of names, which lose their middles where the table is too wide.
        heads: Lines of the heading.
        left: Columns that begin at the left.
        narrowest: Characters that are left of a name.
    """
    widths = {column: max(len(" ".join(row[column].split())) for row in rows) for column in shrink}
    while True:
        cells = [[shortened(cell, widths.get(at, len(cell))) for at, cell in enumerate(row)] for row in rows]
        lines = aligned(cells, left=tuple(left))
        widest = max(widths, key=lambda column: widths[column])
        if max(map(len, lines)) <= WIDTH or widths[widest] <= narrowest:
            break
        widths[widest] -= 1
    return "\n".join([*lines[:heads], "-" * max(map(len, lines)), *lines[heads:]])
