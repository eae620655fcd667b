"""The embedded judge's network. Shares no weights with the pair it judges."""

import torch
from torch import nn
from torch.nn import functional as F


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class JudgeNetwork(nn.Module):
    """Two small convolutional networks: one looks at each frame, one at all frames of a clip together."""

    def __init__(self, concepts: int, styles: int, motions: int, frames: int):
        super().__init__()
        self.look = nn.Sequential(
            _block(3, 32, 2), _block(32, 64), _block(64, 64, 2), _block(64, 96), _block(96, 96, 2), _block(96, 128, 2)
        )
        self.concept = nn.Linear(256, concepts)
        self.style = nn.Linear(256, styles)
        self.watch = nn.Sequential(_block(frames, 32), _block(32, 48, 2), _block(48, 64, 2), _block(64, 64, 2))
        self.motion = nn.Linear(4 * 4 * 64, motions)

    def frame_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (batch, 3, 64, 64) in [-1, 1] -> concept logits (batch, concepts), style logits (batch, styles)."""
        features = self.features(images)
        return self.concept(features), self.style(features)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The features of each image: (batch, 256)."""
        maps = self.look(images)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)

    def motion_logits(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (batch, frames, 3, 64, 64) in [-1, 1] -> motion logits (batch, motions)."""
        grey = F.avg_pool2d(clips.mean(2), 2)
        # What does not move carries no motion: show the network differences from the clip's mean frame as well as size.
        return self.motion(self.watch(grey - grey.mean((2, 3), keepdim=True)).flatten(1))
