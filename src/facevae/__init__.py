"""A variational autoencoder for faces, with and without an extra Dense layer in its Encoder.

Importing the package is cheap: TensorFlow is loaded by the packages that need it, not here. It is
only told to use its fast kernels on every processor.
"""

from facevae.common.runtime import prefer_onednn

__version__ = "0.2.0"

prefer_onednn()
