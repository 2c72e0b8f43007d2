"""What the decoder predicts, and how much each noise level counts. alpha = sqrt(alphabar), sigma = sqrt(1 - alphabar).

noise   e            DDPM, arXiv 2006.11239, equation 14
x_0     x_0          of values in [-1, 1]
v       alpha e - sigma x_0          Salimans and Ho, arXiv 2202.00512, section 4
"""

import torch
from torch import Tensor


def expected_prediction(prediction: str, target: Tensor, noise: Tensor, alphabar_t: Tensor) -> Tensor:
    """What a decoder without error returns.

    Args:
        prediction: "noise", "x_0" or "v".
        target: (N, 3, T, T) in [0, 1]; x_0 = 2 target - 1.
        noise: of the same shape.
        alphabar_t: (N,) at the samples' timesteps.
    """
    if prediction == "noise":
        return noise
    x_0 = 2 * target - 1
    if prediction == "x_0":
        return x_0
    alphabar_t = alphabar_t[:, None, None, None]
    return alphabar_t.sqrt() * noise - (1 - alphabar_t).sqrt() * x_0


def predicted_x_0(prediction: str, predicted: Tensor, x_t: Tensor, alphabar_t: Tensor) -> Tensor:
    """x_0 as a prediction has it, not clipped. alphabar_t: 0-d, or of a shape that broadcasts to x_t's."""
    if prediction == "noise":
        return (x_t - (1 - alphabar_t).sqrt() * predicted) / alphabar_t.sqrt()
    if prediction == "x_0":
        return predicted
    return alphabar_t.sqrt() * x_t - (1 - alphabar_t).sqrt() * predicted


def loss_weights(weighting: str, prediction: str, alphabar: Tensor, gamma: float = 5.0) -> Tensor | None:
    """The weight of the squared error of `prediction` at each timestep: (T + 1,) float32; None: 1 everywhere.

    Args:
        weighting: "uniform"; or "min-snr": min(SNR, gamma) on the error of x_0 with SNR = alphabar / (1 - alphabar)
            (Hang et al., arXiv 2303.09556, section 3.4), which is min(SNR, gamma) / SNR on that of the noise and
            min(SNR, gamma) / (SNR + 1) on that of v.
        alphabar: (T + 1,), 1 at 0.
    """
    if weighting == "uniform":
        return None
    snr = alphabar.double() / (1 - alphabar.double())
    if prediction == "noise":
        return (gamma / snr).clamp(max=1).float()  # Also where no signal is left, and the SNR is 0.
    divisor = {"x_0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return (snr.clamp(max=gamma) / divisor).float()
