"""The Python API: trained models from a run directory or an exported folder."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from soda_fast.build import build_model, view_rays
from soda_fast.checkpoint_reader import read_tensors
from soda_fast.config import Config, ConfigError, config_from_tree
from soda_fast.diffusion import Guidance
from soda_fast.export import CONFIG_NAME, ENCODER_NAME, MODEL_NAME, from_exported
from soda_fast.model import SODA, ResNetEncoder
from soda_fast.posthoc import make_average
from soda_fast.run_directory import RunDirectory, find_changes
from soda_fast.sampling import denoise_under, sample_images, starting_noise, with_sampling
from soda_fast.training.checkpoint_files import latest, read_manifest

# Beginnings of the keys that say what the weights are told and what they answer; views and lengths do not.
_MEANING = ("model.", "diffusion.", "data.mean", "data.std", "data.source_size", "data.target_size")


class PretrainedSODA(SODA):
    """A trained SODA that can also make images. `denoise` is `SODA`'s."""

    def __init__(self, model: SODA, config: Config) -> None:
        super().__init__(model.encoder, model.decoder, model.steps, model.time_scale)
        self.config = config

    def encode(self, images: Tensor, rays: Tensor | None = None, camera: Tensor | None = None) -> Tensor:
        """Normalised images (N, 3, S, S) -> z (N, D).

        Args:
            images: on the model's device.
            rays: features of the cameras' rays (`ray_features`), if you have made them yourself.
            camera: (N, 3, 4), of what the images show: `cameras_of` (soda_fast/data/poses.py) makes it of poses. None,
                or zeros in a row: not known.

        Raises:
            ValueError: a camera, and the model is not told of cameras, or the shape is not that; or also rays.
        """
        return super().encode(images, self._source_rays(images, rays, camera))

    def features(
        self, images: Tensor, rays: Tensor | None = None, camera: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, S, S) -> z (N, D), and the encoder's pooled features (N, F). Else as `encode`."""
        return super().features(images, self._source_rays(images, rays, camera))

    def _source_rays(self, images: Tensor, rays: Tensor | None, camera: Tensor | None) -> Tensor | None:
        if camera is None:
            return rays
        if rays is not None:
            raise ValueError("camera and rays are two forms of one thing; give one of them")
        return self._rays(camera, len(images), self.config.data.source_size, images.device)

    def _rays(self, camera: Tensor, rows: int, size: int, device: torch.device) -> Tensor | None:
        if self.config.model.pose == "none":
            raise ValueError("camera is given, but model.pose is none: this model is not told of cameras; leave it out")
        if camera.shape != (rows, 3, 4):
            raise ValueError(f"camera has shape {tuple(camera.shape)}, but must be ({rows}, 3, 4), one for each image")
        return view_rays(self.config, camera.to(device, torch.float32), size)

    def sample(
        self,
        z: Tensor,
        steps: int = 100,
        guidance: Guidance = 0.3,
        x_T: Tensor | None = None,
        solver: str = "ddim",
        eta: float = 0.0,
        camera: Tensor | None = None,
    ) -> Tensor:
        """Images from z, with classifier-free guidance.

        Args:
            z: (N, D), on the model's device.
            steps: of the solver, at most the schedule's.
            guidance: w, 0 being half the work; or one for each section of z, the finest resolution's first.
            x_T: (N, 3, T, T) starting noise; None: the same for every call, a function of the row's number.
            solver: "ddim", or "dpm-solver++", for which 20 steps are enough.
            eta: share of fresh noise in each step of ddim.
            camera: (N, 3, 4), from where the images are to be seen, as in `encode`; None: the decoder is told none.

        Returns:
            (N, 3, T, T) float32 images in [0, 1]; the noise that ddim leaves can pass the ends, most on the inverted
            schedule, where its deviation is 0.07.

        Raises:
            ValueError: steps, guidance, solver or eta out of range, or at odds with the model; camera as in `encode`.
        """
        weights = guidance if isinstance(guidance, int | float) else list(guidance)
        tree = {"steps": steps, "guidance": weights, "solver": solver, "eta": float(eta)}
        config = with_sampling(self.config, tree)
        if x_T is None:
            x_T = starting_noise(self.config, torch.arange(len(z)))
        rays = None if camera is None else self._rays(camera, len(z), self.config.data.target_size, z.device)
        return sample_images(denoise_under(self.denoise, rays), config, z, x_T.to(z.device))


@dataclass(frozen=True)
class Preprocess:
    """From an image to the encoder's input: central square, resized, normalised as in training.

    mean, std: of the channels in [0, 1]; size: side of the input in pixels.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image of any mode -> (3, size, size) float32."""
        from torchvision.transforms import functional as F

        side = min(image.size)
        square = F.center_crop(image.convert("RGB"), [side, side])
        resized = square if side == self.size else F.resize(square, [self.size, self.size], antialias=True)
        return F.normalize(F.to_tensor(resized), list(self.mean), list(self.std))


def load(path: str | Path, device: str | torch.device = "cpu", ema_length: float | None = None) -> PretrainedSODA:
    """The moving-average weights of a run's newest checkpoint, or of an exported folder; eval mode, float32.

    ema_length: sigma_rel, in (0, 0.28], of a power-function average to make of the run's snapshots
        (`train.ema_lengths`) in place of the average of `train.ema_beta`.

    Raises:
        ValueError: `path` is neither; its checkpoint does not fit its configuration; or it has no averages of which one
            of that length can be made.
    """
    model, config = _load(Path(path), whole=True, ema_length=ema_length)
    return PretrainedSODA(model, config).eval().requires_grad_(False).to(device)


def load_encoder(
    path: str | Path, device: str | torch.device = "cpu", ema_length: float | None = None
) -> tuple[ResNetEncoder, Callable[[Image.Image], Tensor]]:
    """The encoder alone, images (N, 3, S, S) -> z (N, D), and the preprocessing of one PIL image to (3, S, S).

    `encoder.features(images)` gives (z, pooled features). `ema_length`, and what is raised: as in `load`.
    """
    model, config = _load(Path(path), whole=False, ema_length=ema_length)
    return model.encoder.eval().requires_grad_(False).to(device), preprocess(config)


def preprocess(config: Config) -> Preprocess:
    """The encoder's preprocessing in a resolved configuration."""
    assert config.data.mean is not None, "a run's configuration is resolved"
    assert config.data.std is not None, "a run's configuration is resolved"
    return Preprocess(config.data.source_size, config.data.mean, config.data.std)


def load_run(
    run: RunDirectory,
    overrides: Sequence[str] = (),
    ema_length: float | None = None,
    checkpoint: Path | None = None,
) -> tuple[SODA, Config, Path]:
    """The moving-average weights of a run's newest checkpoint, its configuration, and the checkpoint's path.

    overrides: `section.key=value`, of keys that do not shape what was learnt.
    ema_length: as in `load`.
    checkpoint: one of the run's, found by `newest_checkpoint`; None: that one. Of several processes one should choose
        for all: a run that is still training may publish another meanwhile.

    Raises:
        ValueError: no run, no whole checkpoint in it, or nothing to make that average of.
    """
    config = run.load_config(overrides)
    found = checkpoint or newest_checkpoint(run)
    try:
        return _load_checkpoint(run, config, ema_length, found), config, found
    except (OSError, ValueError):
        # A training at work removes its old checkpoints, and has a newer one then.
        if checkpoint is not None or found.exists():
            raise
    return load_run(run, overrides, ema_length)


def _load_checkpoint(run: RunDirectory, config: Config, ema_length: float | None, checkpoint: Path) -> SODA:
    _require_trained_with(run, config, checkpoint)
    model = build_model(config)
    state = model.state_dict()
    read_tensors(checkpoint, "ema.", state)
    if ema_length is not None:
        make_average(run, config, checkpoint, ema_length, state)
    return model


def _require_trained_with(run: RunDirectory, config: Config, checkpoint: Path) -> None:
    """Refuse a config.yaml that was edited after training, where the same weights would mean something else."""
    try:
        trained = config_from_tree(read_manifest(checkpoint)["config"])
    except ConfigError:  # of another version, which config.yaml has been adapted to
        return
    for key, (before, now) in find_changes(trained, config).items():
        if key.startswith(_MEANING):
            raise ConfigError(
                f"{run.config} has {key} = {now!r}, and {checkpoint} was trained with {before!r}; put that back"
            )


def newest_checkpoint(run: RunDirectory) -> Path:
    """A run's newest whole checkpoint. A damaged one that is newer is told of on stderr.

    Raises:
        ValueError: there is none.
    """
    checkpoint, complaints = latest(run.checkpoints)
    if checkpoint is None:
        found = f" ({complaints[0]})" if complaints else ""
        raise ValueError(f"{run.path} has no whole checkpoint to load{found}; train it first")
    # Once for all processes of torchrun, which have not met yet.
    if complaints and int(os.environ.get("RANK", 0)) == 0:
        print(f"soda-fast: warning: {'; '.join(complaints)}: {checkpoint} is used instead", file=sys.stderr, flush=True)
    return checkpoint


def usual_average(config: Config) -> str:
    """The average that a run keeps whatever its settings, in words."""
    return f"EMA of train.ema_beta {config.train.ema_beta}"


def is_exported(path: Path) -> bool:
    """Whether a folder was exported; if not, it should be a run's."""
    return (path / CONFIG_NAME).is_file() and not RunDirectory(path).config.is_file()


def _load(path: Path, whole: bool, ema_length: float | None) -> tuple[SODA, Config]:
    if not is_exported(path):
        model, config, _ = load_run(RunDirectory(path), ema_length=ema_length)
        return model, config
    if ema_length is not None:
        raise ValueError(
            f"{path} is an exported folder, which holds one average; give the run directory to have one of EMA length "
            f"{ema_length:g}, or export that"
        )
    try:
        description = json.loads((path / CONFIG_NAME).read_text())
        tree, digests = description["config"], dict(description["sha256"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / CONFIG_NAME} is not the description of an exported model; export it again"
        ) from error
    config = config_from_tree(tree)
    model = build_model(config)
    network: nn.Module = model if whole else model.encoder
    file = path / (MODEL_NAME if whole else ENCODER_NAME)
    try:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != digests.get(file.name):
            raise ValueError(f"{file} is not the file that was exported with {CONFIG_NAME}; export the model again")
        network.load_state_dict(from_exported(network, load_safetensors(data)))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing; export the model again") from error
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold what {CONFIG_NAME} describes ({str(error).splitlines()[0]})") from error
    return model, config
