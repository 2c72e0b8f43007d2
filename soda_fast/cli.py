"""The command line: verbs, their arguments, and how mistakes are told.

Torch is imported by the verbs that need it, after their arguments have been checked.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from soda_fast import __version__
from soda_fast.config import PROTOCOL_NAMES, Config, help_text, load_config, to_yaml
from soda_fast.config.types import LONGEST_EMA
from soda_fast.errors import EXIT_FAILED, EXIT_INTERRUPTED, Stopped, TrainingError, is_told_here, teller
from soda_fast.prepare import DATASETS
from soda_fast.run_directory import RunDirectory
from soda_fast.synthesis.names import TASK_NAMES
from soda_fast.training.signals import StopRequest

USAGE_ERROR = 2
_EMA_LENGTH_HELP = (
    "average the weights over another length, made of the run's snapshots: sigma_rel, as 0.07 (see train.ema_lengths)"
)
_DRY_RUN_OPTIONS = ("--processes", "--machine-processes", "--gpu-memory-gib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0: done. 2: a user's mistake. 1: training cannot go on. 75: stopped by SIGTERM or SIGUSR1, to be started again.
    130: stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot show, as names of files, ends nothing
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    # argparse takes positional arguments in one piece: key=value after an option arrives as a leftover.
    options, leftovers = parser.parse_known_args(arguments)
    if leftovers and (not hasattr(options, "overrides") or not all("=" in item for item in leftovers)):
        parser.error(f"unrecognized arguments: {' '.join(leftovers)}")
    if leftovers:
        options.overrides = [*options.overrides, *leftovers]
    try:
        return options.verb(options) or 0
    except ValueError as error:
        return _complain(error, USAGE_ERROR)
    except TrainingError as error:
        return _complain(error, EXIT_FAILED)
    except Stopped as error:
        return _complain(error, error.exit_code)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _complain(error, USAGE_ERROR, f"{named}{error.strerror or error}")
    except KeyboardInterrupt as error:
        return _complain(error, EXIT_INTERRUPTED, "interrupted; what has been saved stays")


def _complain(error: BaseException, code: int, text: str | None = None) -> int:
    """Say what is wrong, once for all processes, or on each machine if they have not met."""
    if is_told_here(error):
        print(f"soda-fast: {teller(error)}{text or error}", file=sys.stderr, flush=True)
    return code


def _train(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.overrides)
    if options.dry_run:
        _dry_run(config, options)
        return
    for name in _DRY_RUN_OPTIONS:
        if getattr(options, name.strip("-").replace("-", "_")) is not None:
            raise ValueError(f"{name} belongs to --dry-run; torchrun decides how many processes train")
    # Importing torch takes seconds, in which a scheduler may already change its mind.
    with StopRequest() as stop:
        from soda_fast.train import train

        train(config, options.accept_changes, stop)


def _dry_run(config: Config, options: argparse.Namespace) -> None:
    from soda_fast.describe import describe, describe_memory

    print(to_yaml(config))
    print(describe(config), flush=True)
    processes = options.processes or 1
    print(describe_memory(config, processes, options.machine_processes, options.gpu_memory_gib))


def _prepare(options: argparse.Namespace) -> None:
    if options.url and not options.download:
        raise ValueError("--url is where --download fetches from; give both")
    if options.check and options.held_out_objects:
        raise ValueError("--held-out-objects says what a store is made of; leave it out with --check")
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
        held_out_objects=options.held_out_objects,
    )


def _evaluate(options: argparse.Namespace) -> None:
    if options.weights and not options.encoder:
        raise ValueError("--weights are those of --encoder; give both")
    if options.encoder and options.baselines:
        raise ValueError("--baselines are a run's; leave them out with --encoder")
    if options.encoder and options.ema_length:
        raise ValueError("--ema-length is of a run's own encoder; leave it out with --encoder")
    if options.held_out and options.plot:
        raise ValueError("--plot draws the test split, which --held-out leaves unread; leave one of them out")
    run, overrides = RunDirectory(options.run), list(options.overrides)
    if options.protocols:
        overrides.append(f"evaluation.protocols=[{', '.join(options.protocols)}]")
    if options.encoder:
        if options.run.is_file():
            config = load_config(options.run, overrides)
            run = RunDirectory(Path(config.run.dir))
        else:
            config = run.load_config(overrides)
        from soda_fast.evaluate import evaluate_module

        evaluate_module(config, run, options.encoder, options.weights, options.plot, options.held_out)
        return
    run.load_config(overrides)
    from soda_fast.evaluate import evaluate

    evaluate(run, options.baselines, overrides, options.plot, options.ema_length or (), options.held_out)


def _compare(options: argparse.Namespace) -> None:
    from soda_fast.compare import compare

    print(compare(options.runs))


def _sample(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config(options.overrides)
    from soda_fast.sample import sample

    solver = (options.images, options.steps, options.guidance)
    sample(run, options.task, *solver, options.seed, options.overrides, options.ema_length)


def _export(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config()
    from soda_fast.export import export
    from soda_fast.pretrained import load_run

    model, config, checkpoint = load_run(run, ema_length=options.ema_length)
    export(model, config, options.directory, options.ema_length)
    length = "" if options.ema_length is None else f" (EMA length {options.ema_length:g})"
    print(f"exported the averaged weights{length} of {checkpoint} to {options.directory}")


def _replay(options: argparse.Namespace) -> None:
    run = RunDirectory(options.run)
    run.load_config()
    from soda_fast.replay import replay

    replay(run)


def _import(options: argparse.Namespace) -> None:
    from soda_fast.import_reference import import_reference

    print(import_reference(options.checkpoint, options.config, RunDirectory(options.run)))


def _doctor(options: argparse.Namespace) -> int:
    if options.limit_s <= 0 or (options.batch is not None and options.batch < 1):
        raise ValueError("--limit-s and --batch must be positive")
    from soda_fast.doctor.examine import examine

    return examine(options.config, options.overrides, options.batch, options.limit_s, not options.no_steps)


def _count(text: str) -> int:
    """A positive number, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs")
    return int(text)


def _ema_length(text: str) -> float:
    """A relative length that an average can have, for argparse."""
    try:
        length = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < length <= LONGEST_EMA:
        raise argparse.ArgumentTypeError(f"{text} is not a length of an average: above 0, up to {LONGEST_EMA}")
    return length


def _several_ema_lengths(text: str) -> tuple[float, ...]:
    """One, or several with commas between them, for argparse."""
    return tuple(_ema_length(part) for part in text.split(","))


def _weights(text: str) -> float | tuple[float, ...]:
    """A number, or several with commas between them, for argparse."""
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor numbers with commas between them") from None
    return weights if len(weights) > 1 else weights[0]


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
    train.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on from the run's checkpoint although keys that shape what is learnt have changed",
    )
    train.add_argument("--processes", metavar="N", type=_count, help="with --dry-run: memory on N GPUs (default: 1)")
    train.add_argument(
        "--machine-processes", metavar="N", type=_count, help="with --dry-run: GPUs of one machine (default: at most 8)"
    )
    train.add_argument(
        "--gpu-memory-gib",
        metavar="GIB",
        type=float,
        help="with --dry-run: say whether it is enough (default: the memory of the GPU here)",
    )
    train.set_defaults(verb=_train)

    _add_evaluate(verbs)
    compare = verbs.add_parser("compare", help="one table of several runs' evaluations")
    compare.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directory or evaluation file")
    compare.set_defaults(verb=_compare)

    _add_sample(verbs)
    export = verbs.add_parser("export", help="write a run's networks as safetensors")
    export.add_argument("run", metavar="RUN", type=Path, help="run directory")
    export.add_argument("directory", metavar="DIR", type=Path, help="folder to write")
    _add_ema_length(export)
    export.set_defaults(verb=_export)

    replay = verbs.add_parser(
        "replay",
        help="repeat the step at which a training became NaN or infinite",
        description="Repeat the step at which a training became NaN or infinite, and name the first module whose "
        "values are not finite. With torchrun, on several processes.",
    )
    replay.add_argument("run", metavar="RUN", type=Path, help="run directory")
    replay.set_defaults(verb=_replay)

    doctor = verbs.add_parser(
        "doctor",
        help="what this machine has, which paths training will take, and whether it can start",
        description="Say what this machine has and what will be slow; with a configuration, also which path each part "
        "of its training takes and why, and try two steps. Exit code 0 if training can start, 1 if not.",
    )
    doctor.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file, as those in configs/")
    doctor.add_argument("overrides", metavar="key=value", nargs="*", help="keys that replace the file's")
    doctor.add_argument(
        "--batch", metavar="N", type=int, help="images of a tried step (the configuration's on GPUs, 8 on a CPU)"
    )
    doctor.add_argument("--limit-s", metavar="S", type=float, default=600, help="seconds for the steps (600)")
    doctor.add_argument("--no-steps", action="store_true", help="do not try steps")
    doctor.set_defaults(verb=_doctor)

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
    prepare.add_argument(
        "--held-out-objects",
        metavar="N",
        type=int,
        default=0,
        help="coil100: the test split is N whole objects, evenly over all (0: every fourth view of every object)",
    )
    prepare.add_argument("--processes", metavar="N", type=int, help="worker processes (the cores)")
    prepare.add_argument(
        "--check", action="store_true", help="decode every image, name all that cannot be, and write nothing"
    )
    prepare.set_defaults(verb=_prepare)


def _add_evaluate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    evaluate = verbs.add_parser("evaluate", help="k-NN, linear probes and other measures of a run")
    evaluate.add_argument("run", metavar="RUN", type=Path, help="run directory; with --encoder also a YAML file")
    evaluate.add_argument("overrides", metavar="key=value", nargs="*", help="keys that replace the run's")
    evaluate.add_argument(
        "--protocols",
        metavar="NAME",
        nargs="+",
        choices=PROTOCOL_NAMES,
        help=f"what to measure (default: the run's evaluation.protocols): {', '.join(PROTOCOL_NAMES)}",
    )
    evaluate.add_argument(
        "--encoder",
        metavar="SPEC",
        help="look at another encoder on the run's data, and at the run's images in its features: torchvision:NAME, "
        "run:DIR, or MODULE:FUNCTION, which returns a module",
    )
    evaluate.add_argument("--weights", metavar="FILE", type=Path, help="--encoder's state dict (default: untrained)")
    evaluate.add_argument("--plot", action="store_true", help="draw accuracies, a map, confusions, neighbours")
    evaluate.add_argument(
        "--baselines",
        nargs="*",
        default=[],
        choices=("untrained", "pixels"),
        help="probe these beside the trained encoder: the same encoder untrained; raw pixels",
    )
    evaluate.add_argument(
        "--held-out",
        action="store_true",
        help="on images held out of the training split (evaluation.holdout_fraction), for choosing: the test split "
        "stays unread",
    )
    _add_ema_length(evaluate, _several_ema_lengths, "; several, as 0.05,0.07: one row for each")
    evaluate.set_defaults(verb=_evaluate)


def _add_ema_length(
    verb: argparse.ArgumentParser, read: Callable[[str], float | tuple[float, ...]] = _ema_length, more: str = ""
) -> None:
    verb.add_argument("--ema-length", metavar="L", type=read, help=_EMA_LENGTH_HELP + more)


def _add_sample(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sample = verbs.add_parser(
        "sample",
        help="pictures from a run's model",
        description="Write RUN/samples/TASK-IMAGESSEEN.png, made with the averaged weights; with --ema-length L, "
        "TASK-IMAGESSEEN-ema-L.png. On several processes: "
        "torchrun --nproc-per-node=N -m soda_fast sample RUN; the picture is the same.",
        epilog="tasks: images made\n" + "\n".join(f"  {name:14} {text}" for name, text in TASK_NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sample.add_argument("run", metavar="RUN", type=Path, help="run directory")
    sample.add_argument("overrides", metavar="key=value", nargs="*", help="keys that replace the run's")
    sample.add_argument("--task", metavar="TASK", choices=tuple(TASK_NAMES), default="reconstruct", help="see below")
    sample.add_argument(
        "--images", metavar="N", type=int, help="made images in a row (default: the run's sampling.images)"
    )
    sample.add_argument(
        "--steps", metavar="N", type=int, help="steps of the solver (default: the run's sampling.steps)"
    )
    sample.add_argument(
        "--guidance",
        metavar="W",
        type=_weights,
        help="guidance weight, or as 0.3,0.3,1 one for each section of z (default: the run's sampling.guidance)",
    )
    sample.add_argument("--seed", type=int, default=0, help="of the choice of images, their views, and the noise (0)")
    _add_ema_length(sample)
    sample.set_defaults(verb=_sample)
