"""The default networks with the extra Dense layer and their loss in PyTorch, for `training.py`.

Runs in an environment of its own (requirements-peers.txt). One batch held in memory is used again
and again, which spares this peer the reading that ours does.
"""

import argparse
import contextlib
import time

import torch
from torch import nn

from worker import serve

FILTERS = (32, 64, 128, 256)
INNERMOST = 6
LATENT = 256
INTER_DENSE = 256
ENCODER_PARAMETERS = 2_881_472  # as `tests/test_networks.py` has them
DECODER_PARAMETERS = 2_757_571


def _activate(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03), nn.LeakyReLU(0.2, inplace=True)]


class VAE(nn.Module):
    """What `facevae.model.vae.VAE` computes, channels first."""

    def __init__(self) -> None:
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
        for before, count in zip(FILTERS[::-1], outward, strict=True):
            layers.append(nn.ConvTranspose2d(before, count, 3, 2, padding=1, output_padding=1))
            if count != 3:
                layers += _activate(count)
        self.decoder = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor, epsilon: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.encoder(images)
        mu, log_var = self.mu(hidden).float(), self.log_var(hidden).float().clamp(-20, 10)
        logits = self.decoder(mu + torch.exp(0.5 * log_var) * epsilon)
        return torch.sigmoid(logits.float()), mu, log_var


def count(*modules: nn.Module) -> int:
    """Weights and the moving statistics of batch normalisation, as Keras counts them."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(1)
    vae = VAE()
    assert count(vae.encoder, vae.mu, vae.log_var) == ENCODER_PARAMETERS
    assert count(vae.decoder) == DECODER_PARAMETERS
    images = torch.rand(options.batch_size, 3, 96, 96)
    if options.channels_last:
        vae = vae.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, eps=1e-7, fused=True)
    precision = (
        torch.autocast("cpu", torch.bfloat16) if options.bfloat16 else contextlib.nullcontext()
    )

    def loss_terms(images: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
        with precision:
            outputs, mu, log_var = vae(images, epsilon)
        squares = (outputs - images).square().sum((1, 2, 3)).mean()
        kl = 0.5 * (mu.square() + torch.expm1(log_var) - log_var).sum(1).mean()
        return squares + kl

    loss_of = torch.compile(loss_terms) if options.compile else loss_terms

    def turn(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(images, torch.randn(options.batch_size, LATENT))
            loss.backward()
            optimizer.step()
            loss.item()
        return time.perf_counter() - start

    serve(turn)


if __name__ == "__main__":
    main()
