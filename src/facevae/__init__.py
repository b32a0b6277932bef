"""A variational autoencoder for faces, with and without an extra Dense layer in its Encoder.

Importing the package is cheap: TensorFlow is loaded by the packages that need it, not here.
"""

__version__ = "0.2.0"
