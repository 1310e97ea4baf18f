"""Tar shards as a source: the same images as from folders, nothing unpacked, and every damage in one sentence."""

import functools
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurtrain.config import Config, DataConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.images import load
from blurtrain.opening import open_source
from blurtrain.reduction import Reduced, reduced
from blurtrain.shards import ShardSource, Window, expand
from tests.alike import entries_of, require_same

GEOMETRY = Geometry(24, 20)
Members = Sequence[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def picture(seed: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 8, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def sample(key: str, label: str, seed: int = 0) -> Members:
    return [(f"{key}.png", picture(seed)), (f"{key}.cls", label.encode())]


def shard_folder(root: Path, target: Path, *, split: bool, per_shard: int = 5) -> None:
    """The images of a folder in tar shards; the label in JSON for every other one."""
    entries = entries_of(root)
    for word in ("train", "val", "test") if split else ("",):
        chosen = [entry for entry in entries if entry[2] == word]
        for start in range(0, len(chosen), per_shard):
            members: list[tuple[str, bytes]] = []
            for number, (path, label, _) in enumerate(chosen[start : start + per_shard]):
                members.append((f"{number:03d}.{path.suffix[1:]}", path.read_bytes()))
                members.append((f"{number:03d}.txt", b"a caption"))
                told = json.dumps({"label": label, "age": 3}) if number % 2 else f"{label}\n"
                members.append((f"{number:03d}.{'json' if number % 2 else 'cls'}", told.encode()))
            write_tar(target / f"{word or 'part'}-{start // per_shard:02d}.tar", members)


def test_split_folders_and_their_shards_are_the_same_images(photo_folder: Path, tmp_path: Path) -> None:
    shard_folder(photo_folder, tmp_path / "shards", split=True)
    pattern = f"{tmp_path}/shards/{{train-{{00..04}},test-{{00..02}}}}.tar"
    found = require_same(DataConfig(root=str(photo_folder)), DataConfig(root=pattern))
    assert found.classes == ("blue", "green", "red")


def test_class_folders_and_their_shards_are_split_alike(class_folder: Path, tmp_path: Path) -> None:
    shard_folder(class_folder, tmp_path / "shards", split=False, per_shard=11)
    require_same(DataConfig(root=str(class_folder)), DataConfig(root=f"{tmp_path}/shards/part-{{00..03}}.tar"))


def test_shards_that_are_all_called_train_are_split_by_content(
    class_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shard_folder(class_folder, tmp_path / "s", split=False, per_shard=18)
    for number in range(2):
        (tmp_path / f"s/part-{number:02d}.tar").rename(tmp_path / f"s/train-{number:02d}.tar")
    pattern = f"{tmp_path}/s/train-{{00..01}}.tar"
    require_same(DataConfig(root=str(class_folder)), DataConfig(root=pattern))
    assert f"note: all files of {pattern} are called train: their images are split by content" in capfd.readouterr().err


def test_key_is_the_hash_of_the_images_bytes_and_the_name_tells_its_format(tmp_path: Path) -> None:
    data = [picture(1), picture(2, "JPEG")]
    write_tar(tmp_path / "a.tar", [("x/1.png", data[0]), ("x/1.cls", b"0"), ("2.jpg", data[1]), ("2.cls", b"1")])
    source = ShardSource(str(tmp_path / "a.tar"), tmp_path)
    assert [source.key(index) for index in range(2)] == [hashlib.sha256(part).hexdigest() for part in data]
    assert [item.name for item in source.items] == ["a/x/1.png", "a/2.jpg"]
    assert [source.header(index) for index in range(2)] == [("PNG", 8, 9), ("JPEG", 8, 9)]


def test_large_photographs_in_shards_are_decoded_at_a_part_of_their_size(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1200, 900), (200, 30, 40)).save(file, "JPEG")
    write_tar(tmp_path / "a.tar", [*sample("0", "a"), ("1.jpg", file.getvalue()), ("1.cls", b"b")])
    source = reduced(ShardSource(str(tmp_path / "a.tar"), tmp_path), Geometry(96, 96))
    assert isinstance(source, Reduced)
    assert source.scales == [1, 2]
    assert source.decode(1).size == (600, 450)


def test_same_key_in_two_shards_is_two_images(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / str(number) / "a.tar", sample("0", "ab"[number], number))
    source = ShardSource(f"{tmp_path}/{{0..1}}/a.tar", tmp_path)
    assert len({item.name for item in source.items}) == 2
    assert source.key(0) != source.key(1)


def test_members_that_are_no_part_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("folder", "link.png", ".hidden.png", "no-suffix"):
            header = tarfile.TarInfo(name)
            header.type = {"folder": tarfile.DIRTYPE, "link.png": tarfile.SYMTYPE}.get(name, tarfile.REGTYPE)
            tar.addfile(header)
        for key, label in (("0", "a"), ("1", "b")):
            for name, data in [*sample(key, label), (f"{key}.seg.png", b"no image")]:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    assert len(ShardSource(str(path), tmp_path).items) == 2


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_format(tmp_path: Path, form: int) -> None:
    names = ["deep/" * 60 + "é" * 20 + number for number in "01"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for name, label in zip(names, (b"cat", b"dog"), strict=True):
            for suffix, data in (("png", picture(len(name))), ("cls", label)):
                header = tarfile.TarInfo(f"{name}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    source = ShardSource(str(tmp_path / "a.tar"), tmp_path)
    assert [item.name for item in source.items] == [f"a/{name}.png" for name in names]
    assert source.decode(1).size == (8, 9)


def test_a_network_that_is_not_trained_sees_test_shards_alone(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", sample("0", "a"))
    write_tar(tmp_path / "test-0.tar", sample("0", "b", 1))
    source = ShardSource(f"{tmp_path}/{{train,test}}-0.tar", tmp_path, trained=False)
    assert (source.classes, [item.split for item in source.items]) == (("b",), ["test"])
    source = ShardSource(f"{tmp_path}/train-0.tar", tmp_path, trained=False)
    assert (source.classes, [item.split for item in source.items]) == (("a",), ["test"])


def test_images_are_read_in_place_by_their_own_handle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with io.BufferedReader(Window(path, 10, 20)) as window:
        assert window.read() == bytes(range(10, 30))
        assert window.seek(-5, io.SEEK_END) == 15
        assert window.read(50) == bytes(range(25, 30))
        assert window.seek(3) == 3
        assert window.seek(2, io.SEEK_CUR) == 5
        assert window.read(1) == b"\x0f"
        window.seek(30)
        assert window.read() == b""
    with Window(path, 10, 20) as raw, pytest.raises(ValueError, match="negative seek position -1"):
        raw.seek(-1)


# damage


def test_damaged_image_can_be_skipped(tmp_path: Path) -> None:
    members = [part for number in range(12) for part in sample(f"{number}", "ab"[number % 2], number)]
    members[4] = ("2.png", picture(2)[:40])
    members[6:8] = [("3.cls", b"b")]
    path = str(write_tar(tmp_path / "a.tar", members))
    with pytest.raises(DataError, match=r"^a/2\.png (cannot be decoded|is no image).* \(and 1 more\): mend or remove"):
        load(DataConfig(root=path), GEOMETRY, cache=False)
    found = load(DataConfig(root=path), GEOMETRY, cache=False, on_bad_image="skip")
    assert (
        found.skipped["a/3"]
        == f"has no image (.bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp) in {path}"
    )
    assert list(found.skipped) == ["a/2.png", "a/3"]
    whole = write_tar(tmp_path / "b.tar", [*members[:4], *members[7:]])
    same = load(DataConfig(root=str(whole)), GEOMETRY, cache=False)
    np.testing.assert_array_equal(same.ids[same.train], found.ids[found.train])
    np.testing.assert_array_equal(same.ids[same.test], found.ids[found.test])


@pytest.mark.parametrize("part", range(1, 12))
def test_shard_that_is_cut_short_is_never_taken_for_a_shorter_one(tmp_path: Path, part: int) -> None:
    members = [part for number in range(6) for part in sample(f"{number}", "ab"[number % 2], number)]
    path = write_tar(tmp_path / "a.tar", members)
    end = len(members) * 1024  # header and contents of each, before the zeros of the end
    whole = path.read_bytes()
    for cut in (part * end // 12 // 512 * 512, part * end // 12 + 7):  # between two blocks, and within one
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a\.tar is cut short .*: make or fetch it again$"):
            ShardSource(str(path), tmp_path)


def test_header_that_is_damaged_ends_no_shard(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("0", "a"), *sample("1", "b"), *sample("2", "b")])
    data = bytearray(path.read_bytes())
    data[4 * 1024 + 150] ^= 1  # of the checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"^shard .*a\.tar is cut short or damaged at byte 4096: make or fetch it"):
        ShardSource(str(path), tmp_path)


def test_shard_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("0", "a"), *sample("1", "b")])
    assert len(ShardSource(str(path), tmp_path).items) == 2
    write_tar(path, [*sample("0", "a"), *sample("1", "b"), *sample("2", "b"), *sample("3", "b")] * 1)
    assert len(ShardSource(str(path), tmp_path).items) == 4


def test_names_that_are_no_utf_8_are_written_as_digits(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample("a", "x"), *sample("m\udcfcll", "y"), *sample("z", "x")])
    source = ShardSource(str(path), tmp_path)
    assert [item.name for item in source.items] == ["a/a.png", "a/m\\xfcll.png", "a/z.png"]
    assert source.items[1].name.encode()
    assert source.decode(1).size == (8, 9)


A, B = sample("0", "a"), sample("1", "b")
REFUSED: dict[str, tuple[Members, str]] = {
    "no label": (
        [*A, ("1.png", picture(1)), ("1.txt", b"x")],
        "sample '1' of shard {t} has no label (it has .png, .txt): add 1.cls or 1.json",
    ),
    "key twice": ([*A, *B, *A], "shard {t} has the key '0' twice, with others between: name every sample once"),
    "member twice": ([*A, A[0]], "shard {t} has '0.png' twice: name every sample once"),
    "two images": (
        [*A, ("0.jpg", picture(1, "JPEG"))],
        "sample '0' of shard {t} has .jpg and .png: one image is allowed, also where one is a copy",
    ),
    "empty label": ([("0.png", b""), ("0.cls", b" ")], "0.cls of shard {t} gives the label '': give a whole number or"),
    "no text": ([("0.png", b""), ("0.cls", b"\xff")], "0.cls of shard {t} cannot be read ('utf-8' codec can't decode"),
    "no JSON": ([("0.png", b""), ("0.json", b"{")], "0.json of shard {t} cannot be read (Expecting property name"),
    "no label in JSON": ([("0.json", b"{}")], '0.json of shard {t} has no "label": give a whole number or a text by'),
    "list in JSON": ([("0.json", b"[1]")], '0.json of shard {t} has no "label": give a whole number or a text by'),
    "fraction": ([("0.json", b'{"label": 1.5}')], "0.json of shard {t} gives the label 1.5: give a whole number or a"),
    "truth": ([("0.json", b'{"label": true}')], "0.json of shard {t} gives the label True: give a whole number or a"),
    "half a character": (
        [("0.json", b'{"label": "\\ud800"}')],
        "0.json of shard {t} gives the label '\\ud800': give a",
    ),
    "deep JSON": ([("0.json", b"[" * 99_999)], "0.json of shard {t} cannot be read (maximum recursion depth exceeded"),
    "long label": ([("0.cls", b"x" * 2**20 + b"x")], "0.cls of shard {t} has more than 1,048,576 bytes: give a whole"),
    "one class": (A, "{t} has images of 1 class(es), and at least 2 are needed: list more"),
    "nothing": ([], "{t} has images of 0 class(es), and at least 2 are needed: list more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shard_that_cannot_be_used_is_refused_in_words(tmp_path: Path, case: str) -> None:
    members, sentence = REFUSED[case]
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=str(path)))
    assert str(caught.value).startswith(sentence.format(t=path))


@pytest.mark.parametrize("data", [b"", b"no tar" * 500, b"\x1f\x8b" + bytes(2000)])
def test_file_that_is_no_tar_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar is cut short or no plain tar file \(.*\): make or fetch it again$"):
        ShardSource(str(tmp_path / "a.tar"), tmp_path)


# patterns

EXPANDED = {
    "a.tar": ["a.tar"],
    "a-{000..002}.tar": ["a-000.tar", "a-001.tar", "a-002.tar"],
    "a-{8..11}.tar": ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"],
    "{train,test}-{0..1}.tar": ["train-0.tar", "train-1.tar", "test-0.tar", "test-1.tar"],
    "{train-{0..1},test-0}.tar": ["train-0.tar", "train-1.tar", "test-0.tar"],
    "{a,}b.tar": ["ab.tar", "b.tar"],
}


@pytest.mark.parametrize("pattern", EXPANDED)
def test_braces_are_expanded_as_a_shell_does(pattern: str) -> None:
    assert expand(pattern) == EXPANDED[pattern]


UNUSABLE = {
    "a-{0..1.tar": "braces in a-{0..1.tar do not match: give {train,test}-{000..003}.tar",
    "a-0}.tar": "braces in a-0}.tar do not match: give {train,test}-{000..003}.tar",
    "a-{x}.tar": "{x} in a-{x}.tar is no range that goes up: give {train,test}-{000..003}.tar",
    "a-{3..1}.tar": "{3..1} in a-{3..1}.tar is no range that goes up: give {train,test}-{000..003}.tar",
    "{a,a}.tar": "{a,a}.tar names a.tar twice: name every shard once",
    "a-{0..999999}.tar": "a-{0..999999}.tar names more than 100,000 shards: give fewer",
    "a.tar.gz": "a.tar.gz of a.tar.gz is no .tar: unpack what compresses it (gunzip), or give {train,test}-{000..003}",
    "none-{0..1}.tar": "shard none-0.tar cannot be read (No such file or directory): give tar files by a pattern such",
    "s3://bucket/a.tar": "s3://bucket/a.tar cannot be fetched (Install s3fs to access S3): mend the address, or ",
    "http://[::1/x-{0..1}.tar": "http://[::1/x-0.tar is no address (Invalid IPv6 URL): mend it, or download the shards",
    "http://127.0.0.1:1/a b.tar": "http://127.0.0.1:1/a b.tar cannot be fetched (URL can't contain control characters",
    "odd://x/a.tar": "odd://x/a.tar cannot be fetched (Protocol not known: odd): mend the address, or download it",
}


@pytest.mark.parametrize("pattern", UNUSABLE)
def test_pattern_that_cannot_be_used_is_refused_in_words(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=pattern))
    assert str(caught.value).startswith(UNUSABLE[pattern])


def test_splits_are_named_by_all_shards_or_by_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^more-0\.tar of .* begins with no split and others do: begin all with train"):
        ShardSource(f"{tmp_path}/{{train,more}}-0.tar", tmp_path)


def test_folder_of_shards_is_not_taken_silently(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-0.tar", [*A, *B])
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=str(tmp_path)))
    assert str(caught.value) == (
        f"{tmp_path} has tar files (a-0.tar) and no class folders: name the shards by a pattern, such as "
        f"{tmp_path}/{{train,test}}-{{000..003}}.tar"
    )


def test_experiment_is_called_like_the_shards() -> None:
    for root, name in {
        "/data/cars-{00..12}.tar": "cars",
        "/data/birds/{train-{0..3},test-0}.tar": "birds",
        "https://example.org/flowers/{train,test}-{0..3}.tar": "flowers",
        "https://example.org/{0..3}.tar": "example.org",
    }.items():
        assert Config(data=DataConfig(root=root)).experiment == f"{name}-glyphnet"


# by URL


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word and notes what is asked for."""

    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    folder, asked = tmp_path / "served", list[str]()
    folder.mkdir()
    handler = type("Handler", (Quiet,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder, asked
        server.shutdown()
        thread.join()


def test_shards_of_a_server_are_fetched_once(
    photo_folder: Path, tmp_path: Path, served: tuple[str, Path, list[str]]
) -> None:
    address, folder, asked = served
    shard_folder(photo_folder, folder, split=True, per_shard=12)
    root = address + "/{train-{00..01},test-{00..01}}.tar"
    config = DataConfig(root=root, folder=str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=root, folder=str(tmp_path / "data"), download=False))
    assert str(caught.value) == (
        f"{address}/train-00.tar is not in {tmp_path}/data, and data.download is false: set it to true, or give files"
    )
    assert not asked
    require_same(DataConfig(root=str(photo_folder)), config)
    assert sorted(asked) == [f"/{split}-{number:02d}.tar" for split in ("test", "train") for number in range(2)]
    require_same(config, DataConfig(root=root, folder=str(tmp_path / "data"), download=False))
    assert len(asked) == 4
    kept = sorted(path.name[17:] for path in (tmp_path / "data/shards").iterdir() if path.suffix == ".tar")
    assert kept == ["test-00.tar", "test-01.tar", "train-00.tar", "train-01.tar"]


def test_shard_that_a_server_lacks_or_cuts_short_leaves_nothing(
    tmp_path: Path, served: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder, _ = served
    with pytest.raises(DataError, match=r"/a\.tar cannot be fetched \(HTTP Error 404: File not found\): mend the addr"):
        ShardSource(f"{address}/a.tar", tmp_path / "data")
    write_tar(folder / "a.tar", [*A, *B])
    copied = Quiet.copyfile

    def cut(self: Quiet, source: io.BytesIO, outputfile: io.BytesIO) -> None:
        copied(self, io.BytesIO(source.read()[:2000]), outputfile)

    monkeypatch.setattr(Quiet, "copyfile", cut)
    with pytest.raises(DataError, match=r"/a\.tar was cut short by 8,240 bytes: run the same command again$"):
        ShardSource(f"{address}/a.tar", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data/shards").iterdir()] == [".lock"]


def test_files_may_be_named_by_url(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a b" / "x-0.tar", [*A, *B])
    source = ShardSource(f"{path.parent.as_uri()}/x-{{0..0}}.tar", tmp_path / "data")
    assert len(source.items) == 2
    assert not (tmp_path / "data").exists()


def test_other_schemes_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(write_tar(tmp_path / "a.tar", [*A, *B]).read_bytes())
    source = ShardSource("memory://bucket/a.tar", tmp_path / "data")
    assert source.key(0) == hashlib.sha256(A[0][1]).hexdigest()
    assert re.fullmatch(r"[0-9a-f]{16}-a\.tar", next((tmp_path / "data/shards").glob("*.tar")).name)
