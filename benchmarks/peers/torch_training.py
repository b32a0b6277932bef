"""A training step of the default networks and their loss in PyTorch, for `training_speed`.

Runs in an environment of its own (requirements-peers.txt). One batch held in memory is used again
and again, which spares this peer the reading that ours does.
"""

import argparse
import contextlib
import time

import torch

from benchmarks.harness import serve
from benchmarks.peers.torch_networks import LATENT, VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(1)
    vae = VAE()
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
