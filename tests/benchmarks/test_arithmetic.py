"""Operations of a training step, against those of each layer by hand."""

import pytest
from helpers import make_vae

from benchmarks.arithmetic import forward_flop, step_flop


def test_operations_of_the_posts_networks_are_those_by_hand() -> None:
    """Kernel weights times positions; a multiplication and an addition each."""
    vae = make_vae(inter_dense=256, resize_layers=0)
    encoder = [
        48 * 48 * (3 * 3 * 3 * 32), 24 * 24 * (3 * 3 * 32 * 64), 12 * 12 * (3 * 3 * 64 * 128),
        6 * 6 * (3 * 3 * 128 * 256), 6 * 6 * 256 * 256, 256 * 256, 256 * 256,
    ]  # fmt: skip
    # Each weight of a transposed convolution meets each position of its input.
    decoder = [
        256 * 6 * 6 * 256, 6 * 6 * (3 * 3 * 256 * 128), 12 * 12 * (3 * 3 * 128 * 64),
        24 * 24 * (3 * 3 * 64 * 32), 48 * 48 * (3 * 3 * 32 * 3),
    ]  # fmt: skip
    for network, expected in ((vae.encoder, encoder), (vae.decoder, decoder)):
        found = [flop for layer in network.layers if (flop := forward_flop(layer))]
        assert found == [2 * each for each in expected]
    total = step_flop(vae.encoder, vae.decoder)
    assert total == 6 * sum(encoder + decoder) - 2 * encoder[0]  # no gradient of the image
    assert total / 1e6 == pytest.approx(431.2, abs=0.05)


def test_layers_that_resize_have_larger_kernels() -> None:
    """4 x 4 in place of 3 x 3, at the same positions."""
    posts, resizing = (make_vae(inter_dense=256, resize_layers=layers) for layers in (0, 1))
    more = 48 * 48 * (4 * 4 - 3 * 3) * 32 * 3
    difference = step_flop(resizing.encoder, resizing.decoder) - step_flop(
        posts.encoder, posts.decoder
    )
    assert difference == 6 * more
