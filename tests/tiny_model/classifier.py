"""A small CNN that names the attributes of a picture; it judges the demo model's samples."""

import torch
from environment import encoding
from pictures import draw, random_attributes, random_scenes
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

SIDE = 64
_VALUES = [len(values) for values in encoding.ATTRIBUTES.values()]


class Classifier(nn.Module):
    """Pictures [B, 3, H, W] in 0..1 to logits, a list of [B, values], one per attribute."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for width in (16, 32, 64, 64):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (SIDE // 16) ** 2, sum(_VALUES)))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        small = functional.interpolate(pictures, (SIDE, SIDE), mode="area")
        return list(self.body(small - 0.5).split(_VALUES, dim=1))


def train_classifier(steps: int = 250, batch: int = 64, seed: int = 1) -> Classifier:
    """Trains on fresh drawings with a little noise."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in trange(steps, desc="classifier"):
        attributes = random_attributes(batch, generator)
        pictures = draw(random_scenes(attributes, generator), SIDE)
        pictures = pictures + 0.05 * torch.rand(1) * torch.randn_like(pictures)
        logits = classifier(pictures)
        loss = sum(functional.cross_entropy(one, attributes[:, i]) for i, one in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.no_grad()
def classify(classifier: Classifier, pictures: Tensor) -> Tensor:
    """The likeliest attributes, long [B, 5], 0-based."""
    return torch.stack([logits.argmax(dim=1) for logits in classifier(pictures)], dim=1)
