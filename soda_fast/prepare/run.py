"""`soda-fast prepare`: download, verify, store; or check."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from soda_fast.data.shard_images import ShardImages, load_store
from soda_fast.data.webdataset import load_webdataset
from soda_fast.prepare.coil import require_held_out
from soda_fast.prepare.download import download
from soda_fast.prepare.official import OFFICIAL
from soda_fast.prepare.sources import read_source
from soda_fast.store.build import build_store, construction_site
from soda_fast.store.decode_all import Findings, check_entries
from soda_fast.store.entries import Entry, FileRange
from soda_fast.store.layout import MANIFEST, Manifest, damage, find_store, store_folder
from soda_fast.store.names import all_names

_SHOWN = 20


def prepare(
    dataset: str,
    root: Path,
    *,
    source: Path | None = None,
    download_first: bool = False,
    url: str | None = None,
    part: bool = False,
    processes: int | None = None,
    held_out_objects: int = 0,
) -> None:
    """Make the store of a data set in `root`, or finish one; if there is one, say so.

    Args:
        dataset: one of prepare.DATASETS.
        root: where stores lie; made if missing.
        source: an archive, or a folder of archives or of a tree; None: root.
        download_first: fetch the official archive into root.
        url: where to fetch it from; None: its official address.
        part: accept a part of the official data set.
        processes: worker processes; None: the cores.
        held_out_objects: of coil100: so many whole objects are the test split; 0: views of every object are.

    Raises:
        ValueError: a mistake, or a source that is missing, damaged, hostile or not the official one.
    """
    if dataset == "webdataset":
        raise ValueError("webdataset: shards are trained from as they are; --check decodes their images")
    _require_processes(processes)
    if held_out_objects and dataset != "coil100":
        raise ValueError(f"--held-out-objects {held_out_objects}: {dataset} has no objects to hold out; coil100 has")
    if held_out_objects < 0:
        raise ValueError(f"--held-out-objects {held_out_objects}: must be 0 or more")
    final = store_folder(root, dataset)
    if (final / MANIFEST).is_file():
        if dataset == "coil100":
            require_held_out(final, held_out_objects)
        print(f"{final} is there already: {_counts(Manifest.read(final))}. --check compares every byte of it.")
        return
    if final.exists():
        raise ValueError(f"{final}: is in the way, and no store; move it")
    root.mkdir(parents=True, exist_ok=True)
    with construction_site(root, dataset) as partial:
        if download_first:
            source = _download(dataset, root, source, url)
        contents = read_source(dataset, source or root, part, partial, held_out_objects)
        manifest = build_store(contents, partial, final, processes)
    print(f"{final}: {_counts(manifest)}")
    _tell_unreadable([found for split in manifest.splits.values() for found in split.unreadable])


def check(dataset: str, root: Path, source: Path | None, part: bool, processes: int | None = None) -> None:
    """Decode every image of a data set as training would read it: of `source`, else of its store, else of the tree.

    Raises:
        ValueError: images cannot be decoded, or a store's files have changed; all are named on the terminal.
    """
    _require_processes(processes)
    if not (source or root).exists():
        raise ValueError(f"--root {root}: does not exist" if source is None else f"--source {source}: does not exist")
    store = find_store(root, dataset) if source is None else None
    problems = _changed_files(store) if store else []
    for problem in problems:
        print(problem)
    if problems:
        raise ValueError(f"{store}: {len(problems)} files are not as they were made; remove it and prepare it again")
    if store or dataset == "webdataset":
        train, test, _ = load_store(store) if store else load_webdataset(source or root)
        findings = _check({"train": _shard_entries(train), "test": _shard_entries(test) if test else []}, processes)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            findings = _check(read_source(dataset, source or root, part, Path(scratch)).splits, processes)
    if findings.unreadable:
        raise ValueError(
            f"{len(findings.unreadable):,} images cannot be decoded; repair or remove them, or set "
            "data.on_unreadable=replace"
        )


def _changed_files(folder: Path) -> list[str]:
    """What is wrong with the files of a store, one sentence each."""
    return [problem for file in Manifest.read(folder).files if (problem := damage(folder, file)) is not None]


def _shard_entries(images: ShardImages) -> list[Entry]:
    """The images of shards, as entries to be checked."""
    names = all_names(images.names) if images.names else None
    return [
        Entry(
            names[number] if names else images.describe(number),
            int(row["label"]),
            int(row["length"]),
            0,
            FileRange(str(images.shards[row["shard"]]), int(row["offset"]), int(row["length"])),
        )
        for number, row in enumerate(images.index)
    ]


def _check(splits: Mapping[str, Sequence[Entry]], processes: int | None) -> Findings:
    unreadable: list[tuple[str, str]] = []
    traits: Counter[str] = Counter()
    for split, entries in splits.items():
        found = check_entries(entries, processes)
        for name, cause in found.unreadable:
            print(f"{split}: {name}: {cause}")
        unreadable += found.unreadable
        traits += found.traits
    images = sum(len(entries) for entries in splits.values())
    print(f"{images:,} images checked, {images - len(unreadable):,} can be decoded")
    for trait, count in sorted(traits.items()):
        print(f"  {count:,} {trait}")
    return Findings(unreadable, traits)


def _download(dataset: str, root: Path, source: Path | None, url: str | None) -> Path:
    if source is not None:
        raise ValueError("--download and --source exclude each other")
    official = OFFICIAL.get(dataset)
    if official is None:
        raise ValueError(f"{dataset}: there is nothing to download; give --source")
    if not official.archives:
        raise ValueError(f"{dataset}: cannot be verified; download it from {official.page} and give --source")
    if len(official.archives) > 1:
        raise ValueError(
            f"{dataset}: its archives need a login; download {', '.join(a.file for a in official.archives)} from "
            f"{official.page} and give --source"
        )
    return download(official.archives[0], root, url)


def _counts(manifest: Manifest) -> str:
    splits = ", ".join(f"{split.images:,} {name} images" for name, split in manifest.splits.items())
    return f"{splits}, {len(manifest.class_names):,} classes"


def _tell_unreadable(found: Sequence[tuple[str, str]]) -> None:
    if not found:
        return
    print(f"{len(found):,} images cannot be read; training stops at once, unless data.on_unreadable=replace:")
    for name, cause in found[:_SHOWN]:
        print(f"  {name}: {cause}")
    if len(found) > _SHOWN:
        print(f"  ... all are in {MANIFEST}")


def _require_processes(processes: int | None) -> None:
    if processes is not None and processes < 1:
        raise ValueError(f"--processes {processes}: must be 1 or more")
