"""What must be installed, and what may be: said before anything fails for want of it. Imports nothing of either."""

import importlib.util

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "pydantic": "pydantic",
    "ema_pytorch": "ema-pytorch",
    "tensorboard": "tensorboard",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tqdm": "tqdm",
}
"""Module -> distribution: those that training and every benchmark import."""
KERNELS = "soda_kernels"
"""This project's other import package, in a source root of its own: the checkout's folder alone does not give it."""
OPTIONAL = {
    "triton": ("triton", "the fused kernels and torch.compile"),
    "nvidia.dali": ("nvidia-dali-cuda130", "the DALI loaders"),
    "pytest": ("pytest", "the GPU tests"),
    "matplotlib": ("matplotlib", "pictures"),
    "skimage": ("scikit-image", "SSIM of reconstructions"),
    "pynvml": ("nvidia-ml-py", "energy"),
}
"""Module -> distribution, and what is left out without it."""


def require_packages() -> None:
    """Raises SystemExit naming all that is missing, and the remedy."""
    absent = [name for module, name in REQUIRED.items() if not is_installed(module)]
    if absent:
        raise SystemExit(
            f"benchmarks: not installed here: {', '.join(absent)}; in the checkout: pip install -e '.[dev]', or "
            f"pip install {' '.join(absent)}"
        )
    if not is_installed(KERNELS):
        raise SystemExit(
            f"benchmarks: Python does not find {KERNELS}, which lies in the folder kernels; in the checkout: "
            "pip install -e ., or export PYTHONPATH=$PWD:$PWD/kernels"
        )


def left_out() -> dict[str, str]:
    """{distribution: what is left out} for every optional package that is not here."""
    return {name: use for module, (name, use) in OPTIONAL.items() if not is_installed(module)}


def is_installed(module: str) -> bool:
    """Whether Python would find it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False
