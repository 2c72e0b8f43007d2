"""The encoder: torchvision's ResNet, with a stem for small images and a linear layer to z."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from soda_fast.model.layers import Conv2d
from soda_fast.model.rays import with_rays

ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
WIDTHS = (64, 128, 256, 512)


class ResNetEncoder(nn.Module):
    """A ResNet from a source view to z. Parameters are named as torchvision's: conv1, bn1, layer1.., fc.

    Args:
        arch: "resnet18", "resnet34", "resnet50", or "small": BasicBlocks of the given widths and depths.
        stem: "3x3" (stride 1, no pooling) or "7x7" (stride 2, then max pooling with stride 2).
        z_dim: width of z.
        widths, depths: channels and blocks of each stage; used by "small" only.
        ray_channels: of the camera's rays, beside the image's three.
    """

    def __init__(
        self,
        arch: str = "resnet18",
        stem: str = "3x3",
        z_dim: int = 128,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
        ray_channels: int = 0,
    ) -> None:
        super().__init__()
        if arch == "small":
            block: type[BasicBlock | Bottleneck] = BasicBlock
        else:
            (block, depths), widths = ARCHITECTURES[arch], WIDTHS
        kernel, stride = (3, 1) if stem == "3x3" else (7, 2)
        self.ray_channels = ray_channels
        self.conv1 = nn.Conv2d(3 + ray_channels, widths[0], kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, 2, 1)
        channels = widths[0]
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            stage = _stage(block, channels, width, depth, stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", stage)
            channels = width * block.expansion
        self.num_stages = len(widths)
        self.feature_dim = channels
        self.fc = nn.Linear(channels, z_dim)
        _initialise(self)
        _store_weights_channels_last(self)

    @property
    def stages(self) -> list[nn.Module]:
        """The residual stages, in order."""
        return [self.get_submodule(f"layer{number + 1}") for number in range(self.num_stages)]

    def stem(self, images: Tensor) -> Tensor:
        """(N, 3 + ray_channels, S, S) -> (N, C, S', S'): all before the residual stages."""
        return self.maxpool(F.relu(self.bn1(self.conv1(images))))

    def features(self, images: Tensor, rays: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, S, S) -> z (N, z_dim), and the pooled features before the last layer (N, D).

        rays: (N, ray_channels, S, S), from `ray_features`; None: the camera is not known.
        """
        x = self.stem(with_rays(images, rays, self.ray_channels))
        for stage in self.stages:
            x = stage(x)
        pooled = x.mean(dim=(2, 3))
        return self.fc(pooled), pooled

    def forward(self, images: Tensor, rays: Tensor | None = None) -> Tensor:
        """Normalised images (N, 3, S, S) -> z (N, z_dim). rays: as for `features`."""
        return self.features(images, rays)[0]


def _stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    out_channels = width * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    first = block(in_channels, width, stride, downsample)
    return nn.Sequential(first, *(block(out_channels, width) for _ in range(1, depth)))


def _initialise(encoder: nn.Module) -> None:
    """torchvision's initialisation of a ResNet; BatchNorm and the linear layer keep PyTorch's default."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _store_weights_channels_last(module: nn.Module) -> None:
    """Replace each nn.Conv2d below `module` by our Conv2d with the same weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            assert child.bias is None, "torchvision's ResNets have convolutions without bias"
            assert child.groups == 1, "none of the architectures here groups channels"
            (kernel, _), (stride, _) = child.kernel_size, child.stride
            padding = cast(tuple[int, int], child.padding)[0]
            ours = Conv2d(child.in_channels, child.out_channels, kernel, stride, padding, bias=False)
            with torch.no_grad():
                ours.oihw.copy_(child.weight)
            setattr(module, name, ours)
        else:
            _store_weights_channels_last(child)
