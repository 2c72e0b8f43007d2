"""The networks, the schedules, the sampler and the loss give the reference implementation's numbers."""

import numpy as np
import pytest
import torch
from golden_cases import CASES, GOLDEN, GoldenCase, golden_model, golden_schedule, load_case

from soda_fast.diffusion import NoiseSchedule, Noising, ddim_sample, denoising_loss
from soda_fast.diffusion.loss import add_noise
from soda_fast.model import SODA
from soda_fast.reference_names import convolution_weights, reference_name

FORWARD = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> GoldenCase:
    return load_case(request.param)


@pytest.fixture
def model(case: GoldenCase) -> SODA:
    return golden_model(case)


def noising_of(case: GoldenCase) -> Noising:
    seeds = torch.zeros_like(case.arrays["t"])  # the golden models have no dropout
    return Noising(case.arrays["t"], case.arrays["noise"], case.arrays["drop_mask"], seeds)


@torch.no_grad()
def test_encoder(case: GoldenCase, model: SODA) -> None:
    z = model.encode(case.arrays["source"])
    torch.testing.assert_close(z, case.arrays["z"], **FORWARD)
    torch.testing.assert_close(torch.nn.functional.normalize(z), case.arrays["z_normalized"], **FORWARD)


@torch.no_grad()
def test_noise_prediction(case: GoldenCase, model: SODA) -> None:
    a = case.arrays
    torch.testing.assert_close(model.denoise(a["x_t"], a["t"], a["z"], a["drop_mask"]), a["eps"], **FORWARD)


@torch.no_grad()
def test_channels_last_gives_the_same(case: GoldenCase, model: SODA) -> None:
    a = case.arrays
    x_t, source = (a[name].contiguous(memory_format=torch.channels_last) for name in ("x_t", "source"))
    noise = model(source, x_t, a["t"], a["drop_mask"])
    torch.testing.assert_close(noise, a["eps"], **FORWARD)


def test_forward_process(case: GoldenCase) -> None:
    x_t = add_noise(case.arrays["target"], noising_of(case), golden_schedule(case).training_alphabar())
    torch.testing.assert_close(x_t, case.arrays["x_t"], **FORWARD)


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "rows"),
    # Rows are images that know nothing of each other: the long way is walked with one of them.
    [("ddim_10_w03", 10, 0.3, 4), ("ddim_50_w00", 50, 0.0, 1)],
)
def test_sampler(case: GoldenCase, model: SODA, name: str, steps: int, guidance: float, rows: int) -> None:
    alphabar = golden_schedule(case).sampling_alphabar()
    z, x_T, expected = (case.arrays[key][:rows] for key in ("z", "x_T", name))
    images = ddim_sample(model.denoise, alphabar, z, x_T, steps, guidance)
    torch.testing.assert_close(images, expected, **FORWARD)


def test_training_loss_and_gradients(case: GoldenCase, model: SODA) -> None:
    model.train()
    loss = denoising_loss(model, case.arrays["source"], case.arrays["x_t"], noising_of(case)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case.description["train_loss"], rel=1e-5)
    assert loss.item() == pytest.approx(float(case.arrays["loss"]), rel=1e-5)

    gradients = {
        reference_name(name, case.stem): parameter.grad.norm().item() for name, parameter in model.named_parameters()
    }
    total = torch.tensor(list(gradients.values())).norm().item()
    assert total == pytest.approx(case.description["grad_norm"], rel=1e-3)
    expected = case.description["grad_norms"]
    assert gradients.keys() == expected.keys()
    # A gradient that is zero but for rounding has no relative error: 1e-6 of the whole is added.
    for name, norm in expected.items():
        assert gradients[name] == pytest.approx(norm, rel=1e-3, abs=1e-6 * total), name


@pytest.mark.parametrize("name", ["linear", "cosine", "inverted"])
def test_schedules(name: str) -> None:
    golden = np.load(GOLDEN / "schedules.npz")
    schedule = NoiseSchedule(name)
    for kind, alphabar in (("DDPM", schedule.training_alphabar()), ("DDIM", schedule.sampling_alphabar())):
        expected = torch.from_numpy(golden[f"{name}_{kind}_alphabar"])
        torch.testing.assert_close(alphabar, expected, atol=1e-5, rtol=1e-4)


def test_every_array_is_reproduced(case: GoldenCase) -> None:
    inputs = {"source", "target", "t", "noise", "drop_mask", "x_T"}
    tested = {"z", "z_normalized", "eps", "x_t", "ddim_10_w03", "ddim_50_w00", "loss"}
    assert case.arrays.keys() == inputs | tested


def test_convolution_weights_are_found_by_module(model: SODA) -> None:
    weights = convolution_weights(model)
    four_dimensional = {name for name, parameter in model.named_parameters() if parameter.ndim == 4}
    assert weights == four_dimensional


def test_every_name_of_the_reference_is_met_once(model: SODA, case: GoldenCase) -> None:
    names = [reference_name(name, case.stem) for name in model.state_dict()]
    assert sorted(names) == sorted(case.description["state_dict"])
