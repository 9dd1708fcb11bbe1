"""Layers of planes, and the shape of one row of what each takes: convolution, pooling, other shapes and orders."""

import nnframe as nn

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, 2, 1, groups=2, rng=0), (2, 9)),
    "conv1d same": (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2, rng=0), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, rng=0), (3, 6, 5)),
    "conv2d valid": (lambda: nn.Conv2d(3, 2, (2, 3), 2, "valid", (2, 1), bias=False, rng=0), (3, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3, rng=0), (3, 4, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 2, 3, 2, 1, 1, 2, rng=0), (4, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 2, (3, 2), (2, 3), (1, 0), (1, 2), rng=0), (3, 4, 3)),
    "transposed, dilated": (lambda: nn.ConvTranspose2d(2, 4, 2, 2, 1, 1, 2, dilation=3, bias=False, rng=0), (2, 3, 4)),
    "maxpool1d": (lambda: nn.MaxPool1d(3, 2, 1, ceil_mode=True), (2, 8)),
    "maxpool2d": (lambda: nn.MaxPool2d(2), (2, 4, 6)),
    "maxpool2d, dilated": (lambda: nn.MaxPool2d((2, 3), 1, (1, 0), (2, 1)), (2, 5, 6)),
    "avgpool1d": (lambda: nn.AvgPool1d(3, 2, 1, True, False), (2, 8)),
    "avgpool2d": (lambda: nn.AvgPool2d(3, 2, 1, divisor_override=4), (2, 5, 6)),
    "global": (lambda: nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (3, 4, 5)),
    "flatten": (nn.Flatten, (2, 3, 4)),
    "flatten some": (lambda: nn.Flatten(2, -2), (2, 3, 4, 2)),
    "reshape": (lambda: nn.Reshape(4, -1), (2, 6)),
    "unflatten": (lambda: nn.Unflatten(-1, (2, -1)), (3, 6)),
    "permute": (lambda: nn.Permute(0, 2, 3, 1), (2, 3, 4)),
}
