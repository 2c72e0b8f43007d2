"""The command line: verbs, their arguments, and how mistakes are told.

Torch is imported by the verbs that need it, after their arguments have been checked.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from soda_fast import __version__
from soda_fast.config import Config, help_text, load_config, to_yaml
from soda_fast.prepare import DATASETS
from soda_fast.run_directory import RunDirectory

USAGE_ERROR = 2
TRAINING_ERROR = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, or 2 for a user's mistake, or 1 for a training that diverged."""
    parser = _parser()
    # argparse takes positional arguments in one piece: key=value after an option arrives as a leftover.
    options, leftovers = parser.parse_known_args(arguments)
    if leftovers and (options.verb is not _train or not all("=" in item for item in leftovers)):
        parser.error(f"unrecognized arguments: {' '.join(leftovers)}")
    if leftovers:
        options.overrides = [*options.overrides, *leftovers]
    try:
        options.verb(options)
    except ValueError as error:
        return _complain(error, USAGE_ERROR)
    except ArithmeticError as error:
        return _complain(error, TRAINING_ERROR)
    except OSError as error:
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or error}", USAGE_ERROR)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0


def _complain(error: object, code: int) -> int:
    """Say what is wrong, once for all processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"soda-fast: {error}", file=sys.stderr)
    return code


def _train(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.overrides)
    if options.dry_run:
        _dry_run(config)
        return
    from soda_fast.train import train

    train(config)


def _dry_run(config: Config) -> None:
    from soda_fast.describe import describe

    print(to_yaml(config))
    print(describe(config))


def _prepare(options: argparse.Namespace) -> None:
    if options.url and not options.download:
        raise ValueError("--url is where --download fetches from; give both")
    from soda_fast.prepare.run import check, prepare

    if options.check:
        check(options.dataset, options.root, options.source, options.part, options.processes)
        return
    prepare(
        options.dataset,
        options.root,
        source=options.source,
        download_first=options.download,
        url=options.url,
        part=options.part,
        processes=options.processes,
    )


def _evaluate(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config()
    from soda_fast.evaluate import evaluate

    evaluate(run, baselines=options.baselines)


def _sample(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config()
    from soda_fast.sample import sample

    sample(run, options.kind, options.images, options.steps, options.guidance, options.seed)


def _export(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config()
    from soda_fast.export import export
    from soda_fast.pretrained import load_run

    model, config, checkpoint = load_run(run)
    export(model, config, options.directory)
    print(f"exported the averaged weights of {checkpoint} to {options.directory}")


def _import(options: argparse.Namespace) -> None:
    from soda_fast.import_reference import import_reference

    print(import_reference(options.checkpoint, options.config, RunDirectory(options.run)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soda-fast", description="SODA: representations learnt by denoising.")
    parser.add_argument("--version", action="version", version=f"soda_fast {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    _add_prepare(verbs)
    train = verbs.add_parser(
        "train",
        help="train a configuration, or resume its run",
        description="Train. On several processes: torchrun --nproc-per-node=N -m soda_fast train CONFIG. "
        "The same command resumes.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("config", metavar="CONFIG", help="YAML file, as those in configs/")
    train.add_argument("overrides", metavar="key=value", nargs="*", help="keys that replace the file's")
    train.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    train.set_defaults(verb=_train)

    evaluate = verbs.add_parser("evaluate", help="k-NN and linear probe of a run's encoder")
    evaluate.add_argument("run", metavar="RUN", type=Path, help="run directory")
    evaluate.add_argument(
        "--baselines",
        nargs="*",
        default=[],
        choices=("untrained", "pixels"),
        help="probe these beside the trained encoder: the same encoder untrained; raw pixels",
    )
    evaluate.set_defaults(verb=_evaluate)

    sample = verbs.add_parser("sample", help="pictures from a run's model")
    sample.add_argument("run", metavar="RUN", type=Path, help="run directory")
    sample.add_argument("--kind", choices=("reconstruct", "interpolate"), default="reconstruct")
    sample.add_argument("--images", type=int, help="images in the picture (default: the run's sampling.images)")
    sample.add_argument("--steps", type=int, help="DDIM steps (default: the run's sampling.steps)")
    sample.add_argument("--guidance", type=float, help="guidance weight (default: the run's sampling.guidance)")
    sample.add_argument("--seed", type=int, default=0, help="of the starting noise and of the choice of images")
    sample.set_defaults(verb=_sample)

    export = verbs.add_parser("export", help="write a run's networks as safetensors")
    export.add_argument("run", metavar="RUN", type=Path, help="run directory")
    export.add_argument("directory", metavar="DIR", type=Path, help="folder to write")
    export.set_defaults(verb=_export)

    importing = verbs.add_parser("import", help="turn a checkpoint of the reference implementation into a run")
    importing.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="its .pth file")
    importing.add_argument("--config", type=Path, required=True, help="its YAML file")
    importing.add_argument("run", metavar="RUN", type=Path, help="run directory to make")
    importing.set_defaults(verb=_import)
    return parser


def _add_prepare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prepare = verbs.add_parser(
        "prepare",
        help="verify a data set and make a store of it, or check its images",
        description="Turn a data set into a store in DIR: tar shards that any WebDataset reader opens, and an index. "
        "No pixel changes. `train` with data.root=DIR then reads the store. After an interruption, the same command "
        "goes on.",
    )
    prepare.add_argument("dataset", metavar="DATASET", choices=DATASETS, help=", ".join(DATASETS))
    prepare.add_argument("--root", metavar="DIR", type=Path, default=Path("data"), help="where stores lie (data)")
    prepare.add_argument(
        "--source", metavar="PATH", type=Path, help="archive, or folder of archives or of a tree (DIR)"
    )
    prepare.add_argument("--download", action="store_true", help="fetch the official archive into DIR first")
    prepare.add_argument("--url", help="with --download: another address of the same archive, as of a mirror")
    prepare.add_argument("--part", action="store_true", help="accept a part of the official data set")
    prepare.add_argument("--processes", metavar="N", type=int, help="worker processes (the cores)")
    prepare.add_argument(
        "--check", action="store_true", help="decode every image, name all that cannot be, and write nothing"
    )
    prepare.set_defaults(verb=_prepare)
