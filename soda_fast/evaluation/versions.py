"""What the numbers were made with."""

import platform
from importlib import metadata

import soda_fast

# Pillow decodes images, scikit-learn has the digits and DCI's forests, scikit-image SSIM.
_COUNTED = ("torch", "torchvision", "numpy", "triton", "pillow", "scikit-learn", "scikit-image")


def versions() -> dict[str, str]:
    """Versions of everything that can move a number, of what is installed: Python, soda_fast, torch, DALI, ..."""
    found = {"python": platform.python_version(), "soda_fast": soda_fast.__version__}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name in _COUNTED or name.startswith("nvidia-dali"):
            found[name] = distribution.version
    return dict(sorted(found.items()))
