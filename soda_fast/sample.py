"""`soda-fast sample`: pictures from a run's averaged model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from soda_fast import counter_rng
from soda_fast.data import Dataset, iterate_views, load_dataset
from soda_fast.evaluation.reconstruction import image_grid, psnr, save_png
from soda_fast.pretrained import PretrainedSODA, load_run
from soda_fast.run_directory import RunDirectory
from soda_fast.sampling import sample_images, with_sampling
from soda_fast.training.checkpoint_files import read_manifest


def sample(
    run: RunDirectory,
    kind: str,
    images: int | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    overrides: Sequence[str] = (),
) -> None:
    """Write samples/KIND-IMAGESSEEN.png from test images (train images where there is no test split).

    Args:
        kind: "reconstruct" (a row of images, a row made from their z) or "interpolate" (each row a way from one
            image's z to another's, on the sphere between their directions).
        images: pictures in a row; steps, guidance: of DDIM; None: the run's `sampling` section.
        overrides: `section.key=value` over the run's configuration.
        seed: of the choice of images and of the starting noise.

    Raises:
        ValueError: no run, no whole checkpoint, or a setting out of range.
    """
    model, config, checkpoint = load_run(run, overrides)
    given = {"images": images, "steps": steps, "guidance": guidance}
    config = with_sampling(config, {key: value for key, value in given.items() if value is not None})
    sampling = config.sampling
    dataset = load_dataset(config.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = PretrainedSODA(model, config).eval().requires_grad_(False).to(device)
    source = _choose(trained, dataset, sampling.images, seed)
    if kind == "reconstruct":
        rows = _reconstruct(trained, dataset, source, seed)
    else:
        rows = _interpolate(trained, source, seed)
    path = run.samples / f"{kind}-{read_manifest(checkpoint)['images_seen']:012d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, image_grid(rows))
    print(f"wrote {path}")


def _choose(model: PretrainedSODA, dataset: Dataset, count: int, seed: int) -> Tensor:
    """(count, 3, S, S) normalised images, drawn without repeats as far as there are enough."""
    image_set = dataset.test or dataset.train
    keys = counter_rng.uniform(seed, "sample/choice", torch.arange(len(image_set)), 1)[:, 0]
    indices = torch.argsort(keys)[:count].numpy()
    data, device = model.config.data, model.device
    views = iterate_views(
        image_set, [indices], size=data.source_size, mean=dataset.mean, std=dataset.std, data=data, device=device
    )
    return next(iter(views))[0]


def _reconstruct(model: PretrainedSODA, dataset: Dataset, source: Tensor, seed: int) -> list[Tensor]:
    made = sample_images(model.denoise, model.config, model.encode(source), _noise(model, len(source), seed))
    mean, std = (torch.tensor(v, device=source.device)[:, None, None] for v in (dataset.mean, dataset.std))
    original = source * std + mean
    if original.shape == made.shape:
        print(f"PSNR of the reconstructions: {psnr(original.clamp(0, 1), made.clamp(0, 1)).mean().item():.2f} dB")
    return [original, made]


def _interpolate(model: PretrainedSODA, source: Tensor, seed: int, rows: int = 4) -> list[Tensor]:
    """Rows of as many steps as there are images; neighbours of `source` are the ends."""
    z, steps = model.encode(source), len(source)
    pairs = min(rows, len(source) - 1)
    if pairs < 1:
        raise ValueError("--images must be at least 2 to interpolate between them")
    noise = _noise(model, 1, seed).expand(steps, -1, -1, -1)
    share = torch.linspace(0, 1, steps, device=z.device)[:, None]
    ways = [slerp(z[i : i + 1], z[i + 1 : i + 2], share) for i in range(pairs)]
    return [sample_images(model.denoise, model.config, way, noise) for way in ways]


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """From z (1, D) to z (1, D) along the great circle of their directions, lengths mixed linearly: (K, D).

    share: (K, 1) in [0, 1].
    """
    directions = [torch.nn.functional.normalize(z, dim=1) for z in (start, end)]
    angle = torch.arccos((directions[0] * directions[1]).sum().clamp(-1 + 1e-6, 1 - 1e-6))
    along = (torch.sin((1 - share) * angle) * directions[0] + torch.sin(share * angle) * directions[1]) / angle.sin()
    return along * ((1 - share) * start.norm() + share * end.norm())


def _noise(model: PretrainedSODA, count: int, seed: int) -> Tensor:
    size = model.config.data.target_size
    return counter_rng.normal(seed, "samples", torch.arange(count), (3, size, size)).to(model.device)
