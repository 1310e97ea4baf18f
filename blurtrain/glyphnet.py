"""`GlyphNet`: the small residual network whose weights the package carries.

It is pre-trained on drawn letters (`pretrain`) and plays the part of an imported image classifier where no
weights can be downloaded. Normalisation is the caller's: `(pixels / 255 - MEAN) / STD`.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from blurtrain import glyphs

SIZE = glyphs.SIZE  # pixels, height and width of the input
MEAN = (0.5, 0.5, 0.5)  # of pixels in [0, 1]
STD = (0.5, 0.5, 0.5)
CLASSES = len(glyphs.LETTERS)
STEM = 24  # channels
WIDTHS = (24, 48, 96, 192)  # channels a stage; each stage but the first halves the resolution


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, figure 2), with batch norm.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs smaller_height smaller_width"]:
        """Adds what the convolutions find to the shortcut."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class GlyphNet(nn.Module):
    """A residual network for RGB pictures of 64 x 64 pixels: stem, four blocks, global average pooling, `fc`.

    0.7 million parameters, 36 million multiply-adds a picture.

    Args:
        classes: Outputs of the last layer.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(STEM)
        widths = (STEM, *WIDTHS)
        self.blocks = nn.Sequential(
            *(Block(widths[i], widths[i + 1], stride=1 if i == 0 else 2) for i in range(len(WIDTHS)))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of normalised pictures."""
        x = F.relu(self.bn(self.stem(x)))
        x = self.pool(self.blocks(x)).flatten(1)
        logits: Tensor = self.fc(x)
        return logits
