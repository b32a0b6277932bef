"""A VAE of the default networks in pythae, for `studies.losses` and `studies.published`.

Runs in an environment of its own (requirements-peers.txt). It has pythae's loss (half the squared
error, summed, and the KL) and optimizer at a constant rate. The epochs and the batch size are
given, so that it takes as many steps as the others, and one more an epoch: it keeps the last batch,
which is smaller.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.samplers import (
    GaussianMixtureSampler,
    GaussianMixtureSamplerConfig,
    NormalSampler,
)
from pythae.trainers import BaseTrainerConfig

from benchmarks.peers import torch_networks

_BLOCK = 60  # images in work at a time


class Encoder(BaseEncoder):
    def __init__(self, networks: torch_networks.VAE) -> None:
        super().__init__()
        self.body, self.mu, self.log_var = networks.encoder, networks.mu, networks.log_var

    def forward(self, images: torch.Tensor) -> ModelOutput:
        hidden = self.body(images)
        return ModelOutput(embedding=self.mu(hidden), log_covariance=self.log_var(hidden))


class Decoder(BaseDecoder):
    def __init__(self, networks: torch_networks.VAE) -> None:
        super().__init__()
        self.body = networks.decoder

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.body(z)))


def _channels_last(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="train.npy, validation.npy")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--resize-layers", type=int, required=True)
    parser.add_argument("--prior", choices=["normal", "gaussian"], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--made", type=Path, required=True, help=".npz file to write")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    train, held_out = (
        torch.from_numpy(np.load(options.images / f"{split}.npy")).permute(0, 3, 1, 2).float() / 255
        for split in ("train", "validation")
    )
    networks = torch_networks.VAE(options.resize_layers)
    model = VAE(
        VAEConfig(input_dim=tuple(train.shape[1:]), latent_dim=torch_networks.LATENT),
        encoder=Encoder(networks),
        decoder=Decoder(networks),
    )
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
        TrainingPipeline(training_config=training, model=model)(train_data=train)
    model.eval()
    errors, kls, reconstructed = [], [], []
    with torch.no_grad():
        for images in held_out.split(_BLOCK):
            code = model.encoder(images)
            mu, log_var = code.embedding, code.log_covariance
            sampled = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            made = model.decoder(sampled).reconstruction
            errors.append((made - images).square().sum((1, 2, 3)))
            kls.append(0.5 * (mu.square() + torch.expm1(log_var) - log_var).sum(1))
            reconstructed.append(model.decoder(mu).reconstruction)
        sampler: NormalSampler | GaussianMixtureSampler = NormalSampler(model)
        if options.prior == "gaussian":
            one = GaussianMixtureSamplerConfig(n_components=1)
            sampler = GaussianMixtureSampler(model, one)
            sampler.fit(train)
        samples = sampler.sample(num_samples=len(held_out), batch_size=_BLOCK, return_gen=True)
    np.savez(
        options.made,
        errors=torch.cat(errors).numpy(),
        kl=torch.cat(kls).numpy(),
        reconstructed=_channels_last(torch.cat(reconstructed)),
        samples=_channels_last(samples.cpu()),
    )


if __name__ == "__main__":
    main()
