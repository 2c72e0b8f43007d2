"""The whole examination: machine, paths, disks, memory, two real steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from soda_fast.build import build_empty_model
from soda_fast.config import Config, load_config
from soda_fast.data import load_dataset
from soda_fast.data.image_set import DecodedImages
from soda_fast.data.resident import resident_size
from soda_fast.describe import count_parameters
from soda_fast.doctor.disk import disk_findings
from soda_fast.doctor.findings import Finding, as_text
from soda_fast.doctor.fits import memory_finding
from soda_fast.doctor.hardware import this_hardware
from soda_fast.doctor.machine import machine_findings
from soda_fast.doctor.paths import path_findings
from soda_fast.doctor.processes import fitting_processes
from soda_fast.doctor.trial import try_steps


def examine(
    path: str | None, overrides: Sequence[str] = (), images: int | None = None, limit_s: float = 600, steps: bool = True
) -> int:
    """Print what there is to say; returns 0 if training can start and 1 if not.

    Args:
        path, overrides: of the configuration; None: the machine alone is looked at.
        images, limit_s: see `try_steps`.
        steps: whether to try them.
    """
    found = _say("This machine", machine_findings())
    if path is None:
        print("\nGive a configuration to learn which paths its training takes: soda-fast doctor CONFIG")
        return 0
    try:
        config = load_config(path, overrides)
    except (ValueError, OSError) as error:
        found += _say(f"\n{path}", [Finding("wrong", "configuration", str(error))])
        return _verdict(found)
    hardware = this_hardware()
    train = _find_images(config)
    paths = path_findings(config, hardware, train.count, train.longest)
    found += _say(f"\n{path}: which paths, and why", [train.finding, *paths])
    found += _say("\nDisks and memory", disk_findings(config, count_parameters(build_empty_model(config)), train.count))
    processes = fitting_processes(config, max(hardware.gpus, 1))
    if not _wrong(found):
        found += _say(None, [memory_finding(config, hardware, processes)])
    if steps and not _wrong(found):
        print(f"\nTwo steps, tried for at most {limit_s:.0f} s ...", flush=True)
        gpus = processes if hardware.on_gpu else 0
        found += _say(None, [try_steps(path, overrides, config, gpus, images, limit_s, train.to_be_decoded)])
    return _verdict(found)


@dataclass(frozen=True)
class _TrainImages:
    """count: None: not known. longest: their longer side in pixels if training will have them decoded in memory, else
    None. to_be_decoded: whether it will first have to decode them for that."""

    finding: Finding
    count: int | None = None
    longest: int | None = None
    to_be_decoded: bool = False


def _find_images(config: Config) -> _TrainImages:
    """Whether the data set is there, and what training will make of it; no image is decoded."""
    grey = (0.5, 0.5, 0.5)
    try:
        dataset = load_dataset(replace(config.data, resident_mib=0, mean=grey, std=grey))
    except (ValueError, OSError) as error:
        return _TrainImages(Finding("wrong", "data set", str(error)))
    train = dataset.train
    found = Finding("ok", "data set", f"{dataset.name}, {len(train):,} training images")
    decoded = isinstance(train, DecodedImages)
    if not decoded and resident_size(train, config.data.resident_mib << 20) is None:
        return _TrainImages(found, len(train))
    longest = int(max(train.heights.max(), train.widths.max()))
    return _TrainImages(found, len(train), longest, to_be_decoded=not decoded)


def _say(title: str | None, findings: Iterable[Finding]) -> list[Finding]:
    known = list(findings)
    print(as_text(title, known), flush=True)
    return known


def _wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.mark == "wrong"]


def _verdict(findings: list[Finding]) -> int:
    wrong, slow = _wrong(findings), [finding.subject for finding in findings if finding.mark == "slow"]
    if wrong:
        print(f"\nTraining cannot start: {', '.join(finding.subject for finding in wrong)}")
        return 1
    print("\nTraining can start" + (f"; slower than it could be: {', '.join(dict.fromkeys(slow))}" if slow else ""))
    return 0
