"""What of a network's layers is not known or was not measured, and why, in lines for people. No computation."""

from collections import Counter
from collections.abc import Iterable, Iterator

from blurtrain.layer_tables import BOUNDS, Result
from blurtrain.layer_words import blur_name, named, plural, wrapped

WIDER = "wider than"  # in the reasons of `blurtrain.bounds.wider`


def missing(result: Result) -> Iterator[str]:
    """Why layers have no bound, or not every one, or no product."""
    order = [blur_name(blur) for blur in result["blurs"]]
    for place, blurs in _grouped(_too_narrow(result)).items():
        wide = [blur for blur in order if blur in set().union(*blurs.values())]
        words = f"the kernel{'s' * (len(wide) > 1)} of {', '.join(wide)} {'are' if len(wide) > 1 else 'is'}"
        yield wrapped(f"not measured there: {words} {WIDER} {place} ({named(list(blurs))})")
    for reason, blurs in _grouped(_without_any(result)).items():
        only = ", ".join(blur for blur in order if blur in set().union(*blurs.values()))
        only = "" if only == ", ".join(order) else f" at {only}"
        kind = "no bound" if reason in {layer["no_bound"] for layer in result["layers"]} else "not measured there"
        yield wrapped(f"{kind}: {reason} ({named(list(blurs))}{only})")
    for reason, bounds in _grouped(_without_some(result)).items():
        kinds = " or ".join(bound for bound in BOUNDS if bound in set().union(*bounds.values()))
        yield wrapped(f"no {kinds} bound: {reason} ({named(list(bounds))})")
    products = ((layer["no_cumulative"], layer["name"], "") for layer in result["layers"] if layer["no_cumulative"])
    for reason, layers in _grouped(products).items():
        yield wrapped(f"no product: {reason} ({named(list(layers))})")


def _grouped(found: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, set[str]]]:
    """Triples of a reason, a layer and what it is the reason for, the latter two under the first."""
    groups: dict[str, dict[str, set[str]]] = {}
    for reason, layer, what in found:
        groups.setdefault(reason, {}).setdefault(layer, set()).add(what)
    return groups


def _without_any(result: Result) -> Iterator[tuple[str, str, str]]:
    """Reason, layer and blur where there is no bound at all."""
    for layer in result["layers"]:
        for blur, local in zip(result["blurs"], layer["local"], strict=True):
            reason = layer["no_bound"] or local["reason"]
            if reason and WIDER not in reason:
                yield reason, layer["name"], blur_name(blur)


def _too_narrow(result: Result) -> Iterator[tuple[str, str, str]]:
    """Map, layer and blur where the kernel is wider than the map."""
    for layer in result["layers"]:
        for blur, local in zip(result["blurs"], layer["local"], strict=True):
            if WIDER in (local["reason"] or "") and not layer["no_bound"]:
                yield local["reason"].partition(f"{WIDER} ")[2], layer["name"], blur_name(blur)


def _without_some(result: Result) -> Iterator[tuple[str, str, str]]:
    """Reason, layer and bound where one is missing among others."""
    for layer in result["layers"]:
        for local in layer["local"]:
            bounds = () if local["reason"] else (local["bounds"] or {}).items()
            yield from ((values["reason"], layer["name"], bound) for bound, values in bounds if values["reason"])


def stages(result: Result) -> Iterator[str]:
    """How many stages have no Lipschitz constant, and why."""
    missing = Counter((s["kind"], s["no_bound"] or "unknown") for s in result["stages"] if s["constant"] is None)
    if not missing:
        return
    yield f"{missing.total()} of {plural(len(result['stages']), 'stage')} have no Lipschitz constant:"
    for (kind, reason), times in missing.most_common():
        yield wrapped(f"{times} x {kind}: {reason}", "  ")
