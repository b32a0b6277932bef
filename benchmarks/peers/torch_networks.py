"""The default networks with the extra Dense layer in PyTorch.

Runs in an environment of its own (requirements-peers.txt).
"""

import torch
from torch import nn

FILTERS = (32, 64, 128, 256)
INNERMOST = 6
LATENT = 256
INTER_DENSE = 256
ENCODER_PARAMETERS = 2_881_472  # as `tests/test_networks.py` has them
DECODER_PARAMETERS = 2_757_571


def _activate(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03), nn.LeakyReLU(0.2, inplace=True)]


class VAE(nn.Module):
    """What `facevae.model.vae.VAE` computes, channels first; its number of weights is checked.

    Args:
        resize_layers: as `decoder.resize_layers` in params.yaml.
    """

    def __init__(self, resize_layers: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, count in zip((3, *FILTERS), FILTERS, strict=False):
            layers += [nn.Conv2d(before, count, 3, stride=2, padding=1), *_activate(count)]
        flat = INNERMOST * INNERMOST * FILTERS[-1]
        self.encoder = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(flat, INTER_DENSE), nn.LeakyReLU(0.2)
        )
        self.mu = nn.Linear(INTER_DENSE, LATENT)
        self.log_var = nn.Linear(INTER_DENSE, LATENT)
        layers = [nn.Linear(LATENT, flat), nn.Unflatten(1, (FILTERS[-1], INNERMOST, INNERMOST))]
        outward = (*FILTERS[-2::-1], 3)
        for place, (before, count) in enumerate(zip(FILTERS[::-1], outward, strict=True)):
            if place >= len(FILTERS) - resize_layers:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, count, 3, padding=1)]
            else:
                layers.append(nn.ConvTranspose2d(before, count, 3, 2, padding=1, output_padding=1))
            if count != 3:
                layers += _activate(count)
        self.decoder = nn.Sequential(*layers)
        assert weights_of(self.encoder, self.mu, self.log_var) == ENCODER_PARAMETERS
        assert weights_of(self.decoder) == DECODER_PARAMETERS

    def forward(self, images: torch.Tensor, epsilon: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.encoder(images)
        mu, log_var = self.mu(hidden).float(), self.log_var(hidden).float().clamp(-20, 10)
        logits = self.decoder(mu + torch.exp(0.5 * log_var) * epsilon)
        return torch.sigmoid(logits.float()), mu, log_var


def weights_of(*modules: nn.Module) -> int:
    """Weights and the moving statistics of batch normalisation, as Keras counts them."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
