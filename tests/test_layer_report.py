"""Table, finding, CSV and pictures of the layers, against fabricated results that they are made from."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blurtrain import kernels, layer_pictures, layer_report, layer_tables, layer_words
from blurtrain.errors import StoreError
from blurtrain.views import Blur

Json = dict[str, Any]
BLURS = (Blur("gaussian", 1.0), Blur("gaussian", 4.0), Blur("motion", 9.0, angle=45.0))
GRID = (
    *(Blur("gaussian", sigma) for sigma in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)),
    *(Blur("box", width) for width in (3.0, 5.0, 9.0, 17.0)),
    *(Blur("defocus", radius) for radius in (1.0, 2.0, 4.0, 8.0)),
    *(Blur("motion", length, angle=45.0) for length in (3.0, 5.0, 9.0, 15.0)),
)
READINGS = ("triangle", "young", "l1", "spectral", "joint")
SHARES = {"lipschitz": 0.5, "triangle": 0.1, "young": 0.05, "l1": 0.15, "spectral": 0.2, "joint": 0.3, "output": 0.6}
GATED = "the scale of a squeeze-and-excitation block has no Lipschitz constant"
WIDER = "the kernel of 33 x 33 px is wider than the map of 13 x 13 px"
BORDERS = "the border rule reflect101 does not commute with convolution"


def quantiles(middle: float) -> Json:
    low = {"q05": 0.6 * middle, "q25": 0.8 * middle, "q50": middle}
    return {**low, "q75": 1.25 * middle, "q95": 1.6 * middle, "mean": 1.1 * middle}


def kernel_row(blur: Blur) -> Json:
    kernel = kernels.kernel(blur)
    factors = {"centre": kernel.centre, "l1": kernel.l1, "distance": kernel.distance}
    what = {"name": blur.name, "family": blur.family, "strength": blur.strength, "angle": blur.angle}
    return {**what, "border": blur.border, **factors, "furthest": kernel.furthest(96, 96), "shape": list(kernel.shape)}


def auc_of(value: float) -> Json:
    return {"auc": value, "ci95": [value - 0.1, min(1.0, value + 0.08)], "flipped": 20, "stayed": 44}


def propagated(blur: Blur, place: int, depth: float, heads: Sequence[str], product: float | None) -> Json:
    error = (0.1 + 0.15 * place) * (0.5 + depth) + 0.03 * np.sin(9 * depth)
    borders: Json = {blur.border: quantiles(error), "circular": quantiles(0.9 * error)}
    aucs = {name: auc_of(0.5 + 0.3 * depth + 0.05 * number) for number, name in enumerate(heads)}
    return {**borders, "product": product, "auc": aucs}


def local(place: int, depth: float) -> Json:
    error = (0.1 + 0.1 * place) * (1 + 0.3 * np.sin(20 * depth))
    bounds = {
        name: {
            "constant": 3.0 * share,
            "mean": share * (1 - 0.3 * depth),
            "largest": 1.4 * share,
            "relative": error / share,
            "reason": None,
        }
        for name, share in SHARES.items()
    }
    shares = {"padding": 0.1, "stride": 0.2, "nonlinearity": 0.7}
    return {
        "reason": None,
        "error": {"mean": error, "median": 0.9 * error, "largest": 2 * error},
        "bounds": bounds,
        "shares": shares,
    }


def layer(at: int, n: int, blurs: Sequence[Blur], heads: Sequence[str], names: Callable[[int], str]) -> Json:
    depth = at / max(1, n - 1)
    cumulative = 2.5 ** (at + 1)
    return {
        "depth": at + 1,
        "name": names(at),
        "batch_norm": None,
        "activation": "relu",
        "in_channels": 3 if at == 0 else 64,
        "out_channels": 64 * 2 ** (at // 8),
        "kernel": [3, 3] if at % 3 == 0 else [1, 1],
        "stride": [2, 2] if at == 0 else [1, 1],
        "padding": [1, 1, 1, 1],
        "padding_mode": "zeros",
        "dilation": [1, 1],
        "groups": 1,
        "height": 224,
        "width": 224,
        "no_bound": None,
        "norm": 2.5 + np.sin(at),
        "young": 4.5,
        "lipschitz": 1.0,
        "cumulative": cumulative,
        "no_cumulative": None,
        "local": [local(place, depth) for place, _ in enumerate(blurs)],
        "propagated": [propagated(b, place, depth, heads, 0.3 * cumulative) for place, b in enumerate(blurs)],
    }


def decision(place: int, number: int) -> Json:
    return {
        "flipped": 5 + 10 * place - 4 * number,
        "accuracy_clean": 0.9,
        "accuracy_blurred": 0.8 - 0.2 * place + 0.1 * number,
        "margin": 3.5,
        "logit_change": quantiles(2.0 + place),
        "error": quantiles(0.3),
        "change_over_margin": quantiles(0.4 + 0.5 * place - 0.1 * number),
        "head_norm": 3.25,
        "head_ratio": {"mean": 0.21, "largest": 0.44},
        "row_share": {"mean": 0.3 - 0.1 * number, "q05": 0.1, "q95": 0.5},
    }


def below(blur: Blur, place: int, n: int) -> list[Json]:
    values = zip(READINGS, (0, 0, 1, 3, 4), (6.0, 4.0, 3.0, 2.0, 1.5), strict=True)
    return [
        {"blur": blur.name, "reading": reading, "below": min(n, max(0, count - place)), "of": n}
        | {"least": 0.4 * median, "median": median, "largest": 3 * median}
        for reading, count, median in values
    ]


def fabricated(
    n: int = 26,
    *,
    blurs: Sequence[Blur] = BLURS,
    heads: Sequence[str] = ("baseline", "augmented"),
    names: Callable[[int], str] = lambda at: f"features.{at}.squeeze.conv",
) -> Json:
    """A plausible result: errors and constants grow with depth and strength."""
    layers = [layer(at, n, blurs, heads, names) for at in range(n)]
    end = 0.3 * 2.5**n if n else None
    features = {"propagated": [propagated(b, place, 1.1, heads, end) for place, b in enumerate(blurs)]}
    stages = [
        {"name": one["name"], "kind": "convolution", "constant": one["norm"], "no_bound": None}
        | {"cumulative": one["cumulative"]}
        for one in layers
    ]
    result = {
        "network": "squeezenet1_1",
        "weights": "IMAGENET1K_V1",
        "side": 224,
        "n_images": 64,
        "split": "test",
        "head_names": list(heads),
        "blurs": [kernel_row(blur) for blur in blurs],
        "constants": [kernel_row(blur) for blur in GRID],
        "below_one": [entry for place, blur in enumerate(blurs) for entry in below(blur, place, n)],
        "layers": layers,
        "features": {**features, "cumulative": 2.5**n, "no_cumulative": None},
        "logits": {
            name: {"propagated": [{**one, "product": None} for one in features["propagated"]]} for name in heads
        },
        "stages": stages,
        "decision": [
            {name: decision(place, number) for number, name in enumerate(heads)} for place, _ in enumerate(blurs)
        ],
        "violations": {"checked": 40_000, "count": 0, "largest": 0.9731},
        "no_bound": 0,
    }
    plain: Json = json.loads(json.dumps(result))  # as it is read from its file
    return plain | {"finding": layer_report.finding(plain)}


def gated(n: int = 52, every: int = 5) -> Json:
    """A network with blocks that have no constant: gaps in everything that needs one."""
    result = fabricated(n, names=lambda at: f"features.{at // 3}.0.block.{at % 3}.0")
    for at, one in enumerate(result["layers"]):
        for place, found in enumerate(one["local"]):
            if at >= n // 2 and place == 1:
                found.update(reason=WIDER, error=None, bounds={}, shares=None)
            elif place == 2:
                for bound in ("joint", "output"):
                    found["bounds"][bound] = dict.fromkeys(("constant", "mean", "largest", "relative"), None) | {
                        "reason": BORDERS
                    }
        if at % every == every - 1:
            one.update(no_bound=GATED, norm=None, young=None, lipschitz=None)
            for found in one["local"]:
                found.update(reason=GATED, error=None, bounds=None, shares=None)
        if at >= every:
            one.update(cumulative=None, no_cumulative=GATED)
            for found in one["propagated"]:
                found["product"] = None
                found["auc"]["augmented"].update(ci95=None)
    result["features"].update(cumulative=None, no_cumulative=GATED)
    lost = {"name": "features.4.scale", "kind": "product", "constant": None, "no_bound": GATED, "cumulative": None}
    result["stages"] += [lost, lost, lost | {"kind": "attention", "no_bound": "attention has no Lipschitz constant"}]
    result["no_bound"] = n // every
    return result | {"finding": layer_report.finding(result)}


def blank() -> Json:
    """Every null that there can be, with one image."""
    result = gated(3, every=1)
    result.update(n_images=1, violations={"checked": 0, "count": 0, "largest": None})
    for entry in result["below_one"]:
        entry.update(below=0, of=0, least=None, median=None, largest=None)
    for part in (*result["layers"], result["features"], *result["logits"].values()):
        for found in part["propagated"]:
            for border in ("reflect101", "circular"):
                found[border] = None
            for auc in found["auc"].values():
                auc.update(auc=None, ci95=None, flipped=0, stayed=1)
    for found in result["features"]["propagated"]:
        found["product"] = None
    for heads in result["decision"]:
        for head in heads.values():
            head.update(flipped=0, accuracy_clean=None, accuracy_blurred=None, change_over_margin=None)
            head.update(row_share=None, head_ratio=None, logit_change=None)
    return result | {"finding": layer_report.finding(result)}


def without_heads() -> Json:
    return fabricated(4, heads=())


def one_image() -> Json:
    result = fabricated(5, heads=("own",))
    result["n_images"] = 1
    for heads in result["decision"]:
        heads["own"]["flipped"] = 1
    return result | {"finding": layer_report.finding(result)}


def long_names() -> Json:
    return fabricated(9, names=lambda at: f"{at}." + "a" * 117 + ".")


def many_layers() -> Json:
    return fabricated(160, names=lambda at: f"features.denseblock{at // 40}.denselayer{at}.conv{at % 2}")


def many_blurs() -> Json:
    blurs = [Blur(family, strength) for family in ("gaussian", "defocus") for strength in (0.5, 1.0, 2.0, 4.0, 8.0)]
    return fabricated(6, blurs=[*blurs, Blur("motion", 31.0, angle=22.5, border="symmetric"), Blur("box", 9.0)])


def no_layers() -> Json:
    return fabricated(0)


RESULTS: dict[str, Callable[[], Json]] = {
    made.__name__: made
    for made in (fabricated, gated, blank, without_heads, one_image, long_names, many_layers, many_blurs, no_layers)
}
every_result = pytest.mark.parametrize("made", RESULTS.values(), ids=RESULTS)


def plain(text: str) -> str:
    return " ".join(text.split())


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# the terminal


@every_result
def test_table_is_at_most_100_columns_wide(made: Callable[[], Json]) -> None:
    lines = layer_report.table(made()).splitlines()
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["x" * 300, "a name\nin two lines " * 9, "w/v-" * 60])
def test_no_name_makes_the_table_wider(name: str) -> None:
    result = gated(12)
    result.update(network=name, head_names=[name], decision=[{name: heads["own"]} for heads in one_image()["decision"]])
    for part in (*result["layers"], result["features"]):
        part["name"] = name
        for found in part["propagated"]:
            found["auc"] = {name: found["auc"]["baseline"]}
    for blur in result["blurs"]:
        blur["name"] = f"psf {name}"
        blur["family"] = "psf"
    for stage in result["stages"]:
        stage.update(name=name, kind=name, no_bound=name, constant=None)
    result["finding"] = layer_report.finding(result)
    assert max(map(len, layer_report.table(result).splitlines())) <= 100


@every_result
def test_nothing_that_is_not_known_is_printed_as_a_number(made: Callable[[], Json]) -> None:
    result = made()
    text = layer_report.table(result) + layer_tables.layers_text(result) + layer_tables.stages_text(result)
    assert not re.search(r"\b(nan|NaN|inf|None|null)\b", text)


def test_headline_counts_what_was_looked_at() -> None:
    head = "squeezenet1_1: 64 test images at 224 px, 26 convolutions, heads: baseline, augmented"
    assert layer_report.table(fabricated()).splitlines()[0] == head
    assert layer_report.table(without_heads()).splitlines()[0].endswith("4 convolutions, heads: none")
    assert ": 1 test image at 224 px" in layer_report.table(one_image()).splitlines()[0]


def test_kernel_factors_stand_beside_the_layers_below_1() -> None:
    result = fabricated()
    (line,) = [line for line in layer_report.table(result).splitlines() if line.startswith("gaussian 4  ")][:1]
    kernel = kernels.kernel(Blur("gaussian", 4.0))
    centre = f"{kernel.centre:.5f}".lstrip("0")
    assert line.split() == ["gaussian", "4", centre, "1", "1.98", ">1.00", "0/26", "0/26", "0/26", "2/26", "3/26"]


def test_every_layer_has_its_line_with_its_numbers() -> None:
    result = fabricated()
    lines = [line.split() for line in layer_report.table(result).splitlines()]
    for one in result["layers"]:
        (found,) = [line for line in lines if line[:2] == [str(one["depth"]), one["name"]]]
        assert found[2:4] == layer_report.shape(one).split()
        assert float(found[4]) == pytest.approx(one["norm"], abs=0.005)
        medians = [propagated["reflect101"]["q50"] for propagated in one["propagated"]]
        assert [float(cell) for cell in found[6:9]] == pytest.approx(medians, abs=5e-4)
        assert found[9] == ".280"
        assert float(found[-1]) == pytest.approx(0.3 * 2.5 ** one["depth"], rel=0.05)


def test_shapes_name_what_differs_from_a_plain_convolution() -> None:
    one = fabricated(1)["layers"][0]
    assert layer_report.shape(one) == "3x3/2 64"
    assert layer_report.shape(one | {"stride": [1, 1], "kernel": [1, 7]}) == "1x7 64"
    assert layer_report.shape(one | {"stride": [2, 1], "dilation": [2, 2], "groups": 64}) == "3x3/2x1 64 d2 g64"


def test_of_many_layers_thirty_are_shown_and_the_rest_is_said_to_be_in_the_csv() -> None:
    lines = layer_report.table(many_layers()).splitlines()
    shown = [int(line.split()[0]) for line in lines if re.match(r" *\d+  features", line)]
    assert len(shown) == 30
    assert (shown[0], shown[-1]) == (1, 160)
    assert set(np.diff(shown)) == {5, 6}
    assert "30 of 160 layers are shown, evenly spread; layers.csv has all." in lines


def test_of_many_blurs_as_many_as_fit_are_shown() -> None:
    text = layer_report.table(many_blurs())
    shown, of = map(int, re.findall(r"(\d+) of (\d+) blurs are shown; layers.csv has all.", text)[0])
    assert 2 <= shown < of == 12
    assert "at gaussian 0.5, " in plain(text)  # the first one and the last
    assert "box 9. spectral:" in plain(text)


def test_every_reason_is_shown() -> None:
    result = gated()
    text = plain(layer_report.table(result))
    layers = [one["name"] for one in result["layers"] if one["no_bound"]]
    assert f"no bound: {GATED} ({', '.join(layers[:4])} and {len(layers) - 4} more)" in text
    assert "not measured there: the kernel of gaussian 4 is wider than the map of 13 x 13 px (" in text
    assert f"no joint or output bound: {BORDERS} (" in text
    assert f"no product: {GATED} (" in text
    assert f"At the features no product is known: {GATED}." in text


@pytest.mark.parametrize("n", [1, 3, 160])
def test_reasons_of_their_own_are_all_shown(n: int) -> None:
    result = fabricated(n)
    for at, one in enumerate(result["layers"]):
        one.update(no_bound=f"the activation number{at} has no Lipschitz constant")
    text = plain(layer_report.table(result))
    assert all(f"no bound: {one['no_bound']} ({one['name']})" in text for one in result["layers"])


def test_stages_without_a_constant_are_counted_by_reason() -> None:
    text = layer_report.table(gated())
    assert "3 of 55 stages have no Lipschitz constant:" in text
    assert f"\n  2 x product: {GATED}\n" in text
    assert "\n  1 x attention: attention has no Lipschitz constant\n" in text
    assert "no Lipschitz constant" not in layer_report.table(fabricated())


def test_the_classical_picture_stands_beside_what_was_measured() -> None:
    text = plain(layer_report.table(fabricated()))
    product, median = 0.3 * 2.5**26, fabricated()["features"]["propagated"][2]["reflect101"]["q50"]
    said = f"allows an error of 10^{round(np.log10(product))} at the features, the measured median is "
    assert said + f"{median:.3f}".lstrip("0") in text
    assert "baseline head, ||V||_2 = 3.25, .210 on average, .440 at most" in text


def test_the_decision_has_a_row_for_each_blur_and_head() -> None:
    result = fabricated()
    text = layer_report.table(result)
    assert "\nTurned: answers of 64 that blur changes." in text
    for place, blur in enumerate(result["blurs"]):
        for name, found in result["decision"][place].items():
            (line,) = re.findall(rf"^{re.escape(layer_words.blur_name(blur))} +{name} .*$", text, re.MULTILINE)
            cells = re.split(r"\s{2,}", line)[2:]
            assert int(cells[0]) == found["flipped"]
            assert cells[1:3] == ["90.0", f"{100 * found['accuracy_blurred']:.1f}"]
            assert float(cells[3]) == pytest.approx(found["error"]["q50"])
            assert float(cells[4]) == pytest.approx(found["change_over_margin"]["q50"])
            auc = result["features"]["propagated"][place]["auc"][name]
            assert float(cells[5]) == pytest.approx(auc["auc"], abs=5e-4)
    (shares,) = re.findall(r"^gaussian 4 .*\(.*$", text, re.MULTILINE)
    assert re.split(r"\s{2,}", shares)[1:] == [".300 (.100 to .500)", ".200 (.100 to .500)"]


def test_the_area_is_that_of_the_features() -> None:
    result = fabricated(names="conv{}".format)
    result["features"]["propagated"][1]["auc"]["augmented"].update(auc=0.97, ci95=[0.9, 0.99])
    text = layer_report.table(result)
    (line,) = re.findall(r"^gaussian 4 +augmented .*$", text, re.MULTILINE)
    assert re.split(r"\s{2,}", line)[-2:] == [".970", ".900 to .990"]


def test_without_heads_there_is_no_decision() -> None:
    result = without_heads()
    text = layer_report.table(result)
    assert "head can see" not in text
    assert "turns" not in text


def test_the_finding_ends_the_table() -> None:
    result = gated()
    assert plain(layer_report.table(result)).endswith(plain(result["finding"]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (0, "0"),  # JSON does not tell 1 from 1.0
        (12, "12.0"),
        (1.0, "1"),
        (1 + 1e-14, "1"),
        (0.99999, "<1.00"),
        (0.9987, ".999"),
        (0.9996, "<1.00"),
        (1.00001, ">1.00"),
        (0.31415, ".314"),
        (-0.31415, "-.314"),
        (0.031415, ".0314"),
        (31.415, "31.4"),
        (3141.5, "3142"),
        (9999.4, "9999"),
        (9999.5, "1.0e4"),
        (2.5e60, "2.5e60"),
        (3.1e-7, "3.1e-7"),
    ],
)
def test_numbers_have_three_digits(value: float | int | None, text: str) -> None:
    assert layer_words.number(value) == text


def test_names_lose_their_middle() -> None:
    assert layer_words.shortened("features.10.expand", 40) == "features.10.expand"
    assert layer_words.shortened("features.10.expand", 9) == "feat~pand"
    assert layer_words.shortened("two\nlines", 40) == "two lines"
    for most in range(3, 20):
        assert len(layer_words.shortened("features.10.expand", most)) == min(most, 18)


# the finding


def test_finding_is_one_sentence_made_from_the_numbers() -> None:
    result = fabricated()
    first, last = (part["propagated"][2]["reflect101"]["q50"] for part in (result["layers"][0], result["features"]))
    assert layer_report.finding(result) == (
        "squeezenet1_1 at 224 px: 26 convolutions, no violation in 40,000 comparisons; under motion 9 at 45 degrees "
        "spectral constants are below 1 at 1 of 26 layers, the median error is "
        f"{first:.3f} after the first convolution and {last:.3f} at the features, ".replace(" 0.", " .")
        + f"the product of Lipschitz constants allows 10^{round(np.log10(0.3 * 2.5**26))}; "
        "the augmented head turns 21 of 64 answers, the baseline head 25."
    )


def set_error(result: Json) -> None:
    result["features"]["propagated"][2]["reflect101"]["q50"] = 0.777


def set_first(result: Json) -> None:
    result["layers"][0]["propagated"][2]["reflect101"]["q50"] = 0.0777


def set_product(result: Json) -> None:
    result["features"]["propagated"][2]["product"] = 3e77


def set_layer_product(result: Json) -> None:
    result["layers"][-1]["propagated"][2]["product"] = 3e77


def set_below(result: Json) -> None:
    result["below_one"][-2]["below"] = 19


def set_violations(result: Json) -> None:
    result["violations"].update(count=2, largest=1.5)


def set_flipped(result: Json) -> None:
    result["decision"][2]["augmented"]["flipped"] = 59


def set_heaviest(result: Json) -> None:
    result["features"]["propagated"][0]["reflect101"]["q50"] = 0.999


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_error, ".777 at the features"),
        (set_first, ".0777 after the first convolution"),
        (set_product, "allows 10^77;"),
        (set_below, "below 1 at 19 of 26 layers"),
        (set_violations, "2 violations in 40,000 comparisons"),
        (set_flipped, "the augmented head turns 59 of 64 answers, the baseline head 25."),
        (set_heaviest, "under gaussian 1 "),
    ],
)
def test_other_numbers_make_another_finding(change: Callable[[Json], None], said: str) -> None:
    result = fabricated()
    before = layer_report.finding(result)
    change(result)
    assert said not in before
    assert said in layer_report.finding(result)


def test_finding_without_heads_or_product_says_nothing_of_them() -> None:
    assert "head" not in without_heads()["finding"]
    assert "its own head turns 1 of 1 answer." in one_image()["finding"]
    result = fabricated(2)
    for one in (*result["layers"], result["features"]):
        for found in one["propagated"]:
            found["product"] = None
    assert "no product of Lipschitz constants is known" in layer_report.finding(result)
    assert "allows .750 at features.0.0.block.0.0, the last layer that it reaches" in blank()["finding"]
    assert "0 convolutions" in no_layers()["finding"]


@every_result
def test_finding_is_one_line(made: Callable[[], Json]) -> None:
    assert len(layer_report.finding(made()).splitlines()) == 1


# CSV


@every_result
def test_every_layer_and_blur_is_a_row(made: Callable[[], Json]) -> None:
    result = made()
    rows = rows_of(layer_tables.layers_text(result))
    names = [*(one["name"] for one in result["layers"]), "features", *(f"logits {name}" for name in result["logits"])]
    expected = [(name, blur["name"]) for name in names for blur in result["blurs"]]
    assert [(row["layer_name"], row["blur_name"]) for row in rows] == expected
    stages = rows_of(layer_tables.stages_text(result))
    assert [row["name"] for row in stages] == [stage["name"] for stage in result["stages"]]


def test_rows_hold_the_numbers_of_the_result() -> None:
    result = gated()
    n = len(result["blurs"])
    for number, row in enumerate(rows_of(layer_tables.layers_text(result))[: n * len(result["layers"])]):
        one, place = result["layers"][number // n], number % n
        local, found = one["local"][place], one["propagated"][place]
        assert int(row["depth"]) == one["depth"]
        assert row["layer_kernel"] == "x".join(map(str, one["kernel"]))
        assert (row["layer_no_bound"], row["layer_no_cumulative"]) == (
            one["no_bound"] or "",
            one["no_cumulative"] or "",
        )
        assert row["local_reason"] == (local["reason"] or "")
        assert float(row["error_own_q95"]) == found["reflect101"]["q95"]
        assert float(row["error_circular_q05"]) == found["circular"]["q05"]
        assert row["product"] == ("" if found["product"] is None else str(found["product"]))
        assert float(row["auc_baseline_ci95_low"]) == found["auc"]["baseline"]["ci95"][0]
        for bound, values in (local["bounds"] or {}).items():
            assert row[f"{bound}_largest"] == ("" if values["largest"] is None else str(values["largest"]))
            assert row[f"{bound}_reason"] == (values["reason"] or "")
        if local["bounds"] is None:
            assert row["spectral_mean"] == row["share_stride"] == row["local_error_mean"] == ""
        else:
            assert local["error"] is None or float(row["local_error_mean"]) == local["error"]["mean"]


def test_stages_have_their_constants_and_reasons() -> None:
    rows = rows_of(layer_tables.stages_text(gated()))
    assert rows[-1]["no_bound"] == "attention has no Lipschitz constant"
    assert rows[-1]["constant"] == rows[-1]["cumulative"] == ""
    assert float(rows[0]["constant"]) == 2.5


# pictures


@every_result
def test_every_picture_is_written_whole(tmp_path: Path, made: Callable[[], Json]) -> None:
    result = made()
    files = layer_pictures.pictures(tmp_path, result)
    expected = {"constants", "decision", "error", "bounds"}
    expected -= {"decision"} if not result["head_names"] else set()
    expected -= {"error", "bounds"} if not result["layers"] else set()
    assert set(files) == expected
    assert sorted(tmp_path.iterdir()) == sorted(files.values())  # nothing partial is left
    for path in files.values():
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert 600 <= pixels.shape[1] <= 1600
        assert 300 <= pixels.shape[0] <= 4000
        assert pixels[:3].mean() > 250  # a white margin: nothing is cut off
        assert (pixels < 128).sum() > 1000


def drawn(result: Json, name: str) -> np.ndarray:
    draw, _ = layer_pictures.FIGURES[name]
    buffer = io.BytesIO()
    draw(result).savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def set_auc(result: Json) -> None:
    result["layers"][3]["propagated"][1]["auc"]["baseline"]["auc"] = 0.99


def set_change(result: Json) -> None:
    result["decision"][1]["augmented"]["change_over_margin"]["q50"] = 0.9


def set_row_share(result: Json) -> None:
    result["decision"][1]["augmented"]["row_share"]["mean"] = 0.4


def set_constant(result: Json) -> None:
    result["below_one"][3]["median"] = 1.5


def set_kernel(result: Json) -> None:
    result["constants"][3]["furthest"] = 1.5


def set_bound(result: Json) -> None:
    result["layers"][3]["local"][1]["bounds"]["output"]["relative"] = 0.7


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("error", set_first),
        ("error", set_error),
        ("bounds", set_bound),
        ("bounds", set_layer_product),
        ("constants", set_constant),
        ("constants", set_kernel),
        ("decision", set_auc),
        ("decision", set_change),
        ("decision", set_row_share),
    ],
)
def test_pictures_show_the_numbers(name: str, change: Callable[[Json], None]) -> None:
    result = fabricated(4)
    before = drawn(result, name)
    assert (drawn(result, name) == before).all()
    change(result)
    after = drawn(result, name)
    assert after.shape != before.shape or (after != before).any()


def test_the_product_rises_above_what_was_measured() -> None:
    pixels = drawn(fabricated(12, blurs=BLURS[:1]), "bounds")
    right = pixels[:, pixels.shape[1] // 2 : round(0.86 * pixels.shape[1])]  # without the legend
    product, measured = (np.abs(right - colour).max(-1) < 60 for colour in ((0xD5, 0x5E, 0x00), (0, 0, 0)))
    columns = np.flatnonzero(product.any(0))
    tops = [np.flatnonzero(product[:, column])[0] for column in columns]
    assert tops[0] - tops[-1] > 100  # it rises with depth
    assert measured.any()


@pytest.mark.parametrize("name", ["$_{", "cost $5 to $10", "_hidden", "line\nbreak", "x" * 120, "%s {} \\alpha"])
def test_names_break_no_picture(tmp_path: Path, name: str) -> None:
    result = fabricated(3, heads=(name,), names=lambda at: f"{name}{at}")
    result["network"] = name
    for blur in result["blurs"]:
        blur["name"] = name
    assert len(layer_pictures.pictures(tmp_path, result)) == 4


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "figures").touch()
    with pytest.raises(StoreError, match=r"error.png cannot be written \(.*\): free space or choose another folder"):
        layer_pictures.pictures(tmp_path / "figures", fabricated(2))


def test_reporting_takes_no_torch() -> None:
    program = "import sys, blurtrain.layer_pictures, blurtrain.layer_tables\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
