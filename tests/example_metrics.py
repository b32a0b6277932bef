"""Metrics of a variant, made up, in the form in which stages write them."""


def _of_images(sharpness: float) -> dict:
    return {
        "frechet_distance": 3.5, "precision": 0.5, "recall": 0.125, "fid": None,
        "swd": {"96": 150.0, "mean": 150.0}, "swd_real_normalization": {"mean": None},
        "face_share": None, "face_frechet_distance": None, "grid": 1.0625,
        "sharpness": sharpness, "diversity": 0.5,
    }  # fmt: skip


def _spread(frechet_distance: float) -> dict:
    return {
        "frechet_distance": frechet_distance, "precision": 0.03125, "recall": 0.0625, "fid": None,
        "swd": 2.5, "swd_real_normalization": None, "face_share": None,
        "face_frechet_distance": None, "grid": 0.0, "sharpness": 0.125, "diversity": 0.0,
    }  # fmt: skip


def example_metrics(params: int, psnr: float, memory: float, double: float | None) -> dict:
    """What evaluate writes of a variant; and under "cost", what training costs."""
    return {
        "encoder": {"params": params, "trainable_params": params - 960, "flattened": 9216},
        "decoder": {"params": 2_757_571, "trainable_params": 2_757_123},
        "test": {
            "images": 450, "loss": 300.0, "reconstruction": 250.0, "kl": 50.0, "psnr": psnr,
            "active_units": 256, "ssim": 0.75, "ms_ssim": None,
            "grid": 1.03125, "face_pairs": 243, "face_share": 0.875, "face_distance": 0.5,
            "same_person": 0.75, "kl_per_unit": {"smallest": 0.125, "median": 0.25, "largest": 1.5},
            "sigma": 0.125, "distortion": 250.0, "rate_under_prior": 40.0,
            "mismatch_to_normal": None, "codes_log_likelihood": -80.0,
            "codes_log_likelihood_under_prior": -70.0, "elbo_bits_per_dimension": 8.5,
            "elbo_bits_per_dimension_under_prior": 8.25,
        },
        "samples": {"count": 450, "draws": 5, **_of_images(psnr / 81)},
        "samples_spread": _spread(0.25),
        "samples_normal": {"count": 450, "draws": 5, **_of_images(0.375), "frechet_distance": 9.5},
        "samples_normal_spread": _spread(0.75),
        "real_images": {**_of_images(1.0), "recall": 0.75, "diversity": 0.25},
        "cost": {
            "machine": {"device": "a device", "onednn": "on", "keras": "3.15.1"}, "batch_size": 128,
            "images_per_second": 160.0, "images_per_second_lower_quartile": 150.0,
            "images_per_second_upper_quartile": 170.0, "peak_memory_mib": memory,
            "images_per_second_double_batch": double,
        },
    }  # fmt: skip
