"""Images that are odd, and files that are none: both backends say the same of each, and no other image suffers."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig
from soda_fast.data import Batch, TrainLoader, iterate_views, load_dataset
from soda_fast.data.executor import make_executor
from soda_fast.data.image_files import scan
from soda_fast.data.image_set import FileImages
from soda_fast.data.unreadable import Readable, UnreadableImages
from soda_fast.data.views import plan
from soda_fast.store.pictures import PictureError, decode, inspect, make_plain, read_header
from tests.data.damage import CERTAIN, DAMAGES
from tests.data.pictures import TINY_IMAGENET, clouds, encode, file_set, needs_dali, real_files

CPU = torch.device("cpu")
BACKENDS = [
    pytest.param("dali", marks=needs_dali),
    "torchvision",
]
COUNT, CLASSES = 300, 3


def png_16_bit(channels: np.ndarray) -> bytes:
    """(H, W, C) of 0..65535 as PNG; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, count = channels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def odd_files() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    image = Image.fromarray(clouds(generator, 40, 52))
    wide = Image.fromarray(clouds(generator, 24, 20_000))
    sixteen = {c: generator.integers(0, 2**16, (40, 52, c)) for c in (1, 2, 3, 4)}
    return {
        "1x1.jpg": encode(image.resize((1, 1)), "JPEG"),
        "1x1.png": encode(image.resize((1, 1)), "PNG"),
        "1 wide.png": encode(image.resize((1, 90)), "PNG"),
        "20,000 wide.jpg": encode(wide, "JPEG"),
        "20,000 wide.png": encode(wide, "PNG"),
        "20,000 high.jpg": encode(wide.transpose(Image.Transpose.TRANSPOSE), "JPEG"),
        **{f"16 bit, {count}.png": png_16_bit(values) for count, values in sixteen.items()},
        "no end.jpg": without_end(encode(image, "JPEG", quality=20)),
        "no end.png": encode(image, "PNG")[:-12],
        "more behind.jpg": encode(image, "JPEG") + b"a camera's notes",
        "png by content.jpg": encode(image, "PNG"),
    }


DEVICE_ERRORS = (
    "CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory",
    "Can't allocate 1048576 bytes on device 0.",
    "CUDA allocation failed",
    "CUDA driver API error CUDA_ERROR_LAUNCH_FAILED (719):\nunspecified launch failure",
)


@needs_dali
@pytest.mark.parametrize("cause", DEVICE_ERRORS)
def test_an_error_of_the_device_is_no_image_that_cannot_be_decoded(
    cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soda_fast.data.dali import DaliExecutor

    def fail(*_: object) -> None:
        raise RuntimeError(
            "Critical error in pipeline:\nError in MIXED operator `nvidia.dali.fn.decoders.image`,\n"
            f"encountered:\n\n{cause}\nCurrent pipeline object is no longer valid."
        )

    images = file_set(tmp_path, {"a.png": encode(Image.new("RGB", (9, 9)), "PNG")})
    execute = DaliExecutor(images, [8], CPU, 1, 1)
    try:
        monkeypatch.setattr(execute._pipeline, "run", fail)
        monkeypatch.setattr(DaliExecutor, "_build", lambda _: pytest.fail("builds its pipeline anew"))
        whole = plan(ViewConfig(), 0, "source", np.zeros(1, np.int64), images.heights, images.widths)
        with pytest.raises(RuntimeError, match="MIXED operator") as raised:
            execute(np.zeros(1, np.int64), [whole])
        assert cause in str(raised.value)
    finally:
        execute.close()


def without_end(content: bytes) -> bytes:
    """A JPEG cut off behind its last pixel, and padded so that Pillow still sees one."""
    return content[:-2] + b"\xff\xff\xff\xd9"


@needs_dali
@pytest.mark.parametrize("name", odd_files())
def test_odd_images_train_alike_in_both_backends(name: str, tmp_path: Path) -> None:
    images = scan([write(tmp_path / name, odd_files()[name])] * 12, np.zeros(12, np.int64))
    assert images.heights[0] > 0
    planned = plan(ViewConfig(randaugment_num_ops=0), 1, "source", np.arange(12), images.heights, images.widths)
    views = []
    for backend in ("dali", "torchvision"):
        execute = make_executor(images, [16], DataConfig(backend=backend, threads=2), CPU, 12)
        (view,) = execute(np.arange(12), [planned])
        views.append(view.numpy().astype(int))
        execute.close()
    # Views made smaller differ at their border (test_backends.py); elsewhere by a grey level.
    assert np.abs(views[0] - views[1])[:, 1:-1, 1:-1].max() <= 1


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_become_their_upper_byte(channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (9, 7, channels))
    colours = values if channels > 2 else values[..., :1].repeat(3, axis=-1)
    np.testing.assert_array_equal(decode(png_16_bit(values)), colours[..., :3] >> 8)
    np.testing.assert_array_equal(decode(make_plain(png_16_bit(values))), colours[..., :3] >> 8)


def test_jpegs_that_decoders_might_read_differently_are_decoded_by_pillow() -> None:
    image = Image.fromarray(clouds(np.random.default_rng(0), 40, 52))
    for content in (encode(image, "JPEG"), encode(image.convert("L"), "JPEG"), encode(image, "JPEG", progressive=True)):
        assert make_plain(content) is content
    for content in (encode(image.convert("CMYK"), "JPEG"), encode(image, "JPEG", keep_rgb=True)):
        assert make_plain(content).startswith(b"\x89PNG")
        np.testing.assert_array_equal(decode(make_plain(content)), decode(content))


def test_what_is_unusual_is_told() -> None:
    image = Image.fromarray(clouds(np.random.default_rng(0), 40, 52))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read_header(encode(image, "JPEG")).traits == ()
    for content, trait in (
        (encode(image.convert("L"), "JPEG"), "grayscale"),
        (encode(image.convert("CMYK"), "JPEG"), "CMYK"),
        (encode(image.quantize(16), "PNG"), "palette"),
        (encode(image.convert("RGBA"), "PNG"), "alpha (dropped)"),
        (encode(image, "JPEG", exif=turned), "EXIF orientation (ignored)"),
        (png_16_bit(np.zeros((3, 3, 3), int)), "16-bit (upper byte kept)"),
        (encode(image.resize((1, 5)), "PNG"), "one pixel wide or high"),
    ):
        assert trait in read_header(content).traits


def damaged(name: str, count: int) -> list[bytes]:
    """Real images, all damaged in one way."""
    numbers = random.Random(name)
    return [DAMAGES[name](content, numbers) for content in real_files(TINY_IMAGENET, COUNT)[:count]]


@needs_dali
@pytest.mark.parametrize("name", DAMAGES)
def test_dali_and_pillow_say_the_same_of_every_damaged_file(name: str, tmp_path: Path) -> None:
    files = {f"{number}.jpg": content for number, content in enumerate(damaged(name, 100))}
    paths = [write(tmp_path / file, content) for file, content in files.items()]
    images = FileImages(paths, np.zeros(len(paths), np.int64), *np.full((2, len(paths)), 64))
    sizes = np.full(1, 64)
    planned = [plan(ViewConfig(crop_flip_probability=0.0, randaugment_probability=0.0), 0, "", sizes, sizes, sizes)]
    verdicts: list[list[np.ndarray | None]] = []
    named: list[bool] = []
    for backend in ("dali", "torchvision"):
        execute = make_executor(images, [64], DataConfig(backend=backend, threads=1), CPU, 1)
        verdicts.append([])
        for index in range(len(images)):
            try:
                verdicts[-1].append(execute(np.array([index]), planned)[0].numpy())
            except UnreadableImages as error:
                named.append(f"{index}.jpg: " in str(error))
                verdicts[-1].append(None)
        execute.close()
    assert all(named)
    for ours, theirs in zip(*verdicts, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
    if name in CERTAIN:
        assert not any(view is not None for view in verdicts[0])


def bad_set(root: Path) -> tuple[dict[int, str], set[int]]:
    """A folder of real images, 30 of them damaged in ten ways: {index: way}, and which are unreadable."""
    files = list(real_files(TINY_IMAGENET, COUNT))
    numbers = random.Random(0)
    chosen = dict(zip(numbers.sample(range(COUNT), 3 * len(DAMAGES)), [*DAMAGES] * 3, strict=True))
    for index, content in enumerate(files):
        path = root / "train" / str(index * CLASSES // COUNT) / f"{index:04d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DAMAGES[chosen[index]](content, numbers) if index in chosen else content)
    paths = sorted((root / "train").rglob("*.JPEG"))
    return chosen, {index for index, path in enumerate(paths) if not readable(path.read_bytes())}


def readable(content: bytes) -> bool:
    try:
        decode(content)
    except PictureError:
        return False
    return True


def one_epoch(root: Path, backend: str, **keys: object) -> tuple[list[Batch], TrainLoader]:
    data = DataConfig(
        dataset="folder",
        root=str(root),
        backend=backend,
        threads=2,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        resident_mib=0,
        **keys,
    )
    dataset = load_dataset(data)
    options = {"seed": 1, "global_batch": 30, "rank": 0, "world": 1, "parts": 1, "start_position": 0, "device": CPU}
    loader = TrainLoader(dataset.train, data, dataset.mean, dataset.std, **options)
    batches = [next(loader) for _ in range(COUNT // 30)]
    loader.close()
    return batches, loader


@pytest.mark.parametrize("backend", BACKENDS)
def test_replaced_images_leave_all_others_as_they_were(backend: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for index, content in enumerate(real_files(TINY_IMAGENET, COUNT)):
        path = whole / "train" / str(index * CLASSES // COUNT) / f"{index:04d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    chosen, unreadable = bad_set(tmp_path / "bad")
    assert len(unreadable) >= 3 * len(CERTAIN)
    expected, _ = one_epoch(whole, backend)
    got, loader = one_epoch(tmp_path / "bad", backend, on_unreadable="replace", unreadable_limit=0.5)
    for ours, theirs in zip(got, expected, strict=True):
        for name in ("position", "index", "label"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        whole_rows = torch.tensor([int(index) not in chosen for index in ours.index])
        assert torch.equal(ours.source[whole_rows], theirs.source[whole_rows])
        assert torch.equal(ours.target[whole_rows], theirs.target[whole_rows])
    found = {item.index: item for item in loader.replaced}
    assert found.keys() == unreadable
    labels = load_dataset(
        DataConfig(dataset="folder", root=str(whole), mean=(0.5,) * 3, std=(0.2,) * 3, resident_mib=0)
    ).train.labels
    for index, item in found.items():
        assert item.by not in unreadable
        assert labels[item.by] == labels[index]
        between = np.arange(index + 1, item.by) if item.by > index else np.array([], int)
        assert {int(i) for i in between if labels[i] == labels[index]} <= unreadable, "the next readable one"
        assert f"{index:04d}.JPEG: " in item.cause


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_stand_in_does_not_depend_on_the_batch(backend: str, tmp_path: Path) -> None:
    bad_set(tmp_path)
    keys = {"on_unreadable": "replace", "unreadable_limit": 0.5}
    batches, loader = one_epoch(tmp_path, backend, **keys)
    images = load_dataset(
        DataConfig(dataset="folder", root=str(tmp_path), mean=(0.5,) * 3, std=(0.2,) * 3, resident_mib=0, **keys)
    ).train
    execute = make_executor(images, [8], DataConfig(backend=backend), CPU, 1)
    backwards = Readable(images, "replace")
    for index in reversed(range(COUNT)):
        planned = lambda heights, widths: [plan(ViewConfig(), 0, "", np.zeros(1, int), heights, widths)]  # noqa: E731
        backwards.views(execute, np.array([index]), planned)
    execute.close()
    assert {(i.index, i.by) for i in backwards.replaced} == {(i.index, i.by) for i in loader.replaced}
    assert len(batches) == COUNT // 30


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_default_training_stops_and_names_file_and_cause(backend: str, tmp_path: Path) -> None:
    image = encode(Image.fromarray(clouds(np.random.default_rng(0), 20, 30)), "JPEG")
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "train" / "a" / f"{number:02}.jpg").write_bytes(image[:-40] if number == 7 else image)
    with pytest.raises(
        ValueError, match=r"07.jpg: cannot be decoded \(.*truncated.*\); replace .*on_unreadable=replace"
    ):
        one_epoch(tmp_path, backend)
    (tmp_path / "train" / "a" / "07.jpg").write_bytes(b"")
    (tmp_path / "train" / "a" / "09.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"07.jpg: is no readable image \(the file is empty\).*1 more; .*--check"):
        one_epoch(tmp_path, backend)
    with pytest.raises(ValueError, match=r"data.unreadable_limit is 0.01, but 2 of 30 train images.*--check names all"):
        one_epoch(tmp_path, backend, on_unreadable="replace")


def test_the_stand_in_of_a_pair_is_not_its_other_image(tmp_path: Path) -> None:
    images = file_set(tmp_path, {f"{number}.png": encode(Image.new("RGB", (4, 4)), "PNG") for number in range(4)})

    def damage(*indices: int) -> Readable:
        for index in indices:
            images.paths[index].write_bytes(b"")
            images.heights[index] = 0
        return Readable(images, "replace")

    readable = damage(0, 1)
    # Source and target bad; the source bad, its usual stand-in being the target; the target bad, likewise; none bad.
    pairs = np.array([[0, 0, 2, 3], [1, 2, 0, 2]])
    np.testing.assert_array_equal(readable.shown(pairs), [[2, 3, 2, 3], [3, 2, 3, 2]])
    np.testing.assert_array_equal(readable.shown(np.array([0, 1, 3])), [2, 2, 3])
    with pytest.raises(ValueError, match="class 0 has no readable image other than the pair's other one"):
        damage(3).shown(np.array([[2], [0]]))


def test_a_class_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    images = file_set(tmp_path, {"0.jpg": encode(Image.new("RGB", (9, 9)), "JPEG")})
    images.paths[0].write_bytes(b"")
    execute = make_executor(images, [8], DataConfig(backend="torchvision"), CPU, 1)
    with pytest.raises(ValueError, match=r"0.jpg: .*; class 0 has no readable image to replace it by"):
        Readable(images, "replace").views(
            execute, np.zeros(1, int), lambda h, w: [plan(ViewConfig(), 0, "", np.zeros(1, int), h, w)]
        )
    execute.close()


def test_evaluation_says_which_images_it_replaced(tmp_path: Path) -> None:
    image = encode(Image.fromarray(clouds(np.random.default_rng(0), 20, 30)), "JPEG")
    images = file_set(tmp_path, {f"{number}.jpg": image for number in range(3)})
    images.paths[1].write_bytes(image[:300])
    data = DataConfig(backend="torchvision", on_unreadable="replace")
    with pytest.warns(UserWarning, match=r"1.jpg: cannot be decoded .*2.jpg stands in for it"):
        list(iterate_views(images, [np.arange(3)], size=8, mean=(0,) * 3, std=(1,) * 3, data=data, device=CPU))


def test_inspection_finds_what_decoding_would() -> None:
    """Preparing decodes only files of unusual structure; of these damages it misses none."""
    for name in CERTAIN:
        for content in damaged(name, 20):
            assert inspect(content).cause
    whole = real_files(TINY_IMAGENET, 20)
    assert all(inspect(content).plain for content in whole)
    assert all(inspect(content).height == Image.open(io.BytesIO(content)).height for content in whole)
