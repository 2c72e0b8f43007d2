"""Samplers with a perfect denoiser of a Gaussian, whose every step is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from soda_fast.diffusion import NoiseSchedule, ddim_sample, dpm_solver_sample, expected_prediction
from soda_fast.diffusion.sampler import sampling_times, solver_times
from soda_fast.evaluation import psnr

MEAN, DEVIATION = 0.2, 0.15  # of x_0: within [-1, 1] by five deviations, so that clipping changes nothing
N, SIZE = 64, 8
Z = torch.zeros(N, 1)


def perfect(alphabar: Tensor, prediction: str, deviation: float | Tensor = DEVIATION):
    """The conditional mean of each prediction where x_0 is N(MEAN, deviation^2), pixel by pixel."""

    def denoise(x: Tensor, t: Tensor, z: Tensor, drop_mask: Tensor) -> Tensor:
        signal = alphabar[t].double().view(-1, 1, 1, 1)
        variance = signal * deviation**2 + 1 - signal
        x_0 = MEAN + signal.sqrt() * deviation**2 / variance * (x.double() - signal.sqrt() * MEAN)
        noise = (x.double() - signal.sqrt() * x_0) / (1 - signal).sqrt()
        return expected_prediction(prediction, (x_0 + 1) / 2, noise, signal.flatten()).float()

    return denoise


def start(seed: int = 0) -> Tensor:
    return torch.randn(N, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def moments(images: Tensor) -> tuple[float, float]:
    x_0 = 2 * images.double() - 1
    return x_0.mean().item(), x_0.std().item()


def of_unit_moments(x: Tensor) -> Tensor:
    """Noise whose mean is 0 and whose deviation is 1, so that what is found of images is the solver's doing alone."""
    return ((x - x.mean()) / x.std()).float()


def flow_of_gaussian(
    alphabar: Tensor, x: Tensor, start: int, end: int, deviation: float | Tensor = DEVIATION
) -> Tensor:
    """Where the probability flow takes x at `start` by `end`, float64: for a Gaussian it only moves and scales."""
    a = alphabar.double()
    variance = {t: a[t] * deviation**2 + 1 - a[t] for t in (start, end)}
    scale = torch.sqrt(variance[end] / variance[start])
    return a[end].sqrt() * MEAN + scale * (x.double() - a[start].sqrt() * MEAN)


def exact_end(alphabar: Tensor, x_T: Tensor, deviation: float | Tensor = DEVIATION) -> Tensor:
    """Where the solver must end from x_T: E[x_0 | x_1] of the flow's x_1, as images."""
    x_1 = flow_of_gaussian(alphabar, x_T, len(alphabar) - 1, 1, deviation)
    a = alphabar[1].double()
    x_0 = MEAN + a.sqrt() * deviation**2 / (a * deviation**2 + 1 - a) * (x_1 - a.sqrt() * MEAN)
    return (x_0 + 1) / 2


def kept_share(alphabar: Tensor) -> float:
    """Of the deviation of x_0, that of E[x_0 | x_1]."""
    u = (1 - alphabar[1].double()) / alphabar[1].double()
    return float((DEVIATION**2 / (DEVIATION**2 + u)).sqrt())


@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverted"])
def test_the_solver_gives_the_gaussian_that_is_certain_at_the_first_timestep(schedule: str, prediction: str) -> None:
    alphabar = NoiseSchedule(schedule, 1000).training_alphabar()
    errors = []
    for steps in (20, 50, 200):
        images = dpm_solver_sample(
            perfect(alphabar, prediction), alphabar, Z, of_unit_moments(start()), steps, 0.0, prediction
        )
        mean, deviation = moments(images)
        errors.append(abs(deviation / (kept_share(alphabar) * DEVIATION) - 1))
    assert errors[2] < errors[1] < errors[0] < 0.08
    assert errors[2] < 0.003
    assert mean == pytest.approx(MEAN, abs=0.001)


# As of white noise, of contours, and of the brightness of a whole image, which adds up over its pixels.
NARROW_TO_WIDE = torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0, 10.0], dtype=torch.float64)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverted"])
def test_wide_and_narrow_directions_come_back(schedule: str) -> None:
    """Noise of many pixels and what is common to them are decided at different ends of a schedule."""
    alphabar, x_T = NoiseSchedule(schedule, 1000).training_alphabar(), start()[..., : len(NARROW_TO_WIDE)]
    denoise, errors = perfect(alphabar, "noise", NARROW_TO_WIDE), {}
    exact = exact_end(alphabar, x_T, NARROW_TO_WIDE) * 2 - 1 - MEAN
    for steps in (20, 100):
        found = 2 * dpm_solver_sample(denoise, alphabar, Z, x_T, steps, 0.0, clip=False).double() - 1 - MEAN
        errors[steps] = ((found * exact).sum((0, 1, 2)) / exact.square().sum((0, 1, 2)) - 1).abs()
    # One timestep leads from no signal to a ninth of it on the inverted schedule: too far for what varies by 10.
    too_coarse = 0.09 if schedule == "inverted" else 0.0
    assert (errors[20][:-1] < 0.05).all()
    assert errors[20][-1] < max(0.07, too_coarse)
    assert (errors[100][:-1] < (0.02 if too_coarse else 0.004)).all()
    assert errors[100][-1] < max(0.004, too_coarse)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverted"])
def test_what_leaves_the_range_of_images_comes_back_unclipped(schedule: str) -> None:
    alphabar = NoiseSchedule(schedule, 1000).training_alphabar()
    exact = exact_end(alphabar, start(), 1.0)
    solved = dpm_solver_sample(perfect(alphabar, "noise", 1.0), alphabar, Z, start(), 100, 0.0, clip=False)
    walked = ddim_sample(perfect(alphabar, "noise", 1.0), alphabar, Z, start(), 1000, 0.0, clip=False)
    for found, tolerance in ((solved, 0.01), (walked, 0.03)):
        assert (found.double() - exact).abs().mean().item() < tolerance
    assert solved.double().std().item() == pytest.approx(exact.std().item(), rel=0.01)
    assert dpm_solver_sample(perfect(alphabar, "noise", 1.0), alphabar, Z, start(), 100, 0.0).max() <= 1


@pytest.mark.parametrize(("schedule", "total"), [("linear", 1000), ("cosine", 1000), ("inverted", 4000), ("cosine", 7)])
def test_the_solver_takes_as_many_steps_as_it_is_told(schedule: str, total: int) -> None:
    a = NoiseSchedule(schedule, total).training_alphabar().double()
    for steps in {1, 2, 3, 5, 7, 20, 200, 999, total}:
        if steps > total:
            continue
        times = solver_times(torch.log((a / (1 - a)).sqrt()), steps)
        assert len(times) == steps
        assert times == sorted(set(times), reverse=True)
        assert times[0] == total
        assert times[-1] == (1 if steps > 1 else total)


def test_what_the_first_noise_level_takes_from_a_narrow_gaussian() -> None:
    """Nothing on linear and cosine; on the inverted schedule the less, the more timesteps the network knows."""
    missing = {}
    schedules = [("linear", 1000), ("cosine", 1000), ("inverted", 1000), ("inverted", 10_000)]
    for name, total in schedules:
        alphabar = NoiseSchedule(name, total).training_alphabar()
        images = dpm_solver_sample(perfect(alphabar, "x_0"), alphabar, Z, of_unit_moments(start()), 200, 0.0, "x_0")
        assert moments(images)[1] == pytest.approx(kept_share(alphabar) * DEVIATION, rel=0.004)
        missing[name, total] = 1 / kept_share(alphabar) ** 2 - 1
    assert missing["linear", 1000] < 0.005
    assert missing["cosine", 1000] < 0.002
    # As 1 / sqrt(T): ten times the timesteps, 3.2 times less.
    assert missing["inverted", 1000] / missing["inverted", 10_000] == pytest.approx(math.sqrt(10), rel=0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverted"])
def test_ddim_ends_at_the_noise_level_of_its_schedule(schedule: str) -> None:
    """The first level's noise is left, and the more steps, the more exactly the Gaussian with that noise."""
    alphabar = NoiseSchedule(schedule, 1000).sampling_alphabar()
    denoise, errors = perfect(alphabar, "noise"), []
    for steps in (20, 100, 1000):
        found = 2 * ddim_sample(denoise, alphabar, Z, start(), steps, 0.0).double() - 1
        exact = flow_of_gaussian(alphabar, start(), sampling_times(1000, steps)[0], 0)
        errors.append((found - exact).abs().mean().item() / DEVIATION)
    assert errors[2] < errors[1] / 3 < errors[0] / 6
    assert errors[2] < 0.01
    a = alphabar[0].double()
    assert exact.std().item() == pytest.approx(float((a * DEVIATION**2 + 1 - a).sqrt()), rel=0.02)


def test_ddim_on_the_training_schedule_ends_as_the_solver_does() -> None:
    alphabar = NoiseSchedule("inverted", 1000).training_alphabar()
    images = ddim_sample(perfect(alphabar, "noise"), alphabar, Z, start(), 1000, 0.0)
    assert (images.double() - exact_end(alphabar, start())).abs().mean().item() * 2 < 0.02 * DEVIATION


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_gaussian_back(eta: float) -> None:
    """Its steps only move and scale a Gaussian: what deviation is left is known exactly, and close to the true one."""
    alphabar = NoiseSchedule("linear", 1000).sampling_alphabar()
    images = ddim_sample(perfect(alphabar, "noise"), alphabar, Z, start(), 500, 0.0, eta=eta)
    mean, deviation = moments(images)
    a, variance = alphabar.double(), 1.0
    for t, s in pairwise(sampling_times(1000, 500)):
        fresh = eta**2 * (1 - a[s]) / (1 - a[t]) * (1 - a[t] / a[s])
        # x_0 = share * x + constant; noise = (x - sqrt(a_t) x_0) / sqrt(1 - a_t)
        share = a[t].sqrt() * DEVIATION**2 / (a[t] * DEVIATION**2 + 1 - a[t])
        of_noise = (1 - a[s] - fresh).sqrt() * (1 - a[t].sqrt() * share) / (1 - a[t]).sqrt()
        variance = float((a[s].sqrt() * share + of_noise) ** 2 * variance + fresh)
    assert mean == pytest.approx(MEAN * math.sqrt(a[0]), abs=0.005)
    assert deviation == pytest.approx(math.sqrt(variance), rel=0.01)
    assert deviation == pytest.approx(math.sqrt(a[0] * DEVIATION**2 + 1 - a[0]), rel=0.05)


def test_a_step_of_ddim_is_its_equation() -> None:
    """DDIM, equations 12 and 16, in float64, along the whole way."""
    alphabar, eta = NoiseSchedule("cosine", 100).sampling_alphabar(), 0.7
    found = ddim_sample(perfect(alphabar, "noise"), alphabar, Z[:2], start()[:2], 10, 0.0, eta=eta, seed=5)
    from soda_fast import counter_rng

    x, a = start()[:2].double(), alphabar.double()
    for t, s in pairwise(sampling_times(100, 10)):
        noise = perfect(alphabar, "noise")(x, torch.tensor([t, t]), Z, Z).double()
        sigma = eta * torch.sqrt((1 - a[s]) / (1 - a[t])) * torch.sqrt(1 - a[t] / a[s])
        x_0 = (x - (1 - a[t]).sqrt() * noise) / a[t].sqrt()
        fresh = counter_rng.normal(5, f"ddim/{t}", torch.arange(2), (3, SIZE, SIZE)).double()
        x = a[s].sqrt() * x_0 + (1 - a[s] - sigma**2).sqrt() * noise + sigma * fresh
    torch.testing.assert_close(found.double(), (x + 1) / 2, atol=2e-6, rtol=1e-5)


def test_the_solver_is_of_second_order() -> None:
    """Twice the steps: a quarter of the error (an order of one would halve it)."""
    alphabar = NoiseSchedule("cosine", 4000).training_alphabar()
    # Not to t = T, where this schedule has almost no signal and the flow starts with a long first step.
    alphabar = alphabar[:3400]
    errors = []
    for steps in (20, 40, 80):
        found = dpm_solver_sample(perfect(alphabar, "v"), alphabar, Z, start(), steps, 0.0, "v")
        errors.append((found.double() - exact_end(alphabar, start())).abs().mean().item())
    assert 3 < errors[0] / errors[1] < 6
    assert 3 < errors[1] / errors[2] < 6


def test_fresh_noise_belongs_to_the_sample() -> None:
    alphabar = NoiseSchedule("linear", 100).sampling_alphabar()
    denoise = perfect(alphabar, "noise")
    whole = ddim_sample(denoise, alphabar, Z[:4], start()[:4], 5, 0.0, eta=1.0)
    rows = torch.tensor([3, 1])
    some = ddim_sample(denoise, alphabar, Z[:2], start()[:4][rows], 5, 0.0, eta=1.0, rows=rows)
    assert torch.equal(some, whole[rows])
    other = ddim_sample(denoise, alphabar, Z[:4], start()[:4], 5, 0.0, eta=1.0, seed=1)
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("sample", [ddim_sample, dpm_solver_sample])
@pytest.mark.parametrize("steps", [0, 101])
def test_more_steps_than_the_schedule_has_are_refused(sample, steps: int) -> None:
    alphabar = NoiseSchedule("linear", 100).training_alphabar()
    with pytest.raises(ValueError, match=rf"between 1 and the schedule's 100, got {steps}"):
        sample(perfect(alphabar, "noise"), alphabar, Z, start(), steps)


def test_one_step_is_the_first_guess() -> None:
    alphabar = NoiseSchedule("linear", 100).training_alphabar()
    found = dpm_solver_sample(perfect(alphabar, "x_0"), alphabar, Z, start(), 1, 0.0, "x_0")
    first = perfect(alphabar, "x_0")(start(), torch.full((N,), 100), Z, Z)
    torch.testing.assert_close(found, (first + 1) / 2)


def perfect_for_images(alphabar: Tensor, images: Tensor):
    """The conditional mean of the noise where x_0 is one of `images` (K, C, S, S) and a Gaussian around it."""
    centres = images.double().flatten(1)

    def denoise(x: Tensor, t: Tensor, z: Tensor, drop_mask: Tensor) -> Tensor:
        signal, noised = alphabar[t].double()[:, None], x.double().flatten(1)
        variance = signal * DEVIATION**2 + 1 - signal
        distances = (noised[:, None] - signal.sqrt()[:, None] * centres).square().sum(dim=2)
        mean = torch.softmax(-distances / (2 * variance), dim=1) @ centres
        x_0 = mean + signal.sqrt() * DEVIATION**2 / variance * (noised - signal.sqrt() * mean)
        return ((noised - signal.sqrt() * x_0) / (1 - signal).sqrt()).view(x.shape).float()

    return denoise


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverted"])
def test_twenty_steps_look_like_a_hundred(schedule: str) -> None:
    """With the perfect denoiser of real images. A few starts lie between two images, and may end at either."""
    images = torch.from_numpy(load_digits().images[:60, None] / 8 - 1)
    alphabar, x_T, z = NoiseSchedule(schedule, 1000).training_alphabar(), start()[:32, :1], torch.zeros(32, 1)
    denoise = perfect_for_images(alphabar, images)
    many, twenty, five = (dpm_solver_sample(denoise, alphabar, z, x_T, steps, 0.0) for steps in (100, 20, 5))
    assert psnr(twenty, many).median() > 42
    assert (psnr(twenty, many) > 30).double().mean() > 0.8
    assert psnr(five, many).median() < psnr(twenty, many).median() - 6
