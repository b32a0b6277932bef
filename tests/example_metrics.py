"""Metrics of a variant, made up, in the form in which stages write them."""


def example_metrics(params: int, psnr: float, memory: float, double: float | None) -> dict:
    """What evaluate writes of a variant; and under "cost", what training costs."""
    return {
        "encoder": {"params": params, "trainable_params": params - 960, "flattened": 9216},
        "decoder": {"params": 2_757_571, "trainable_params": 2_757_123},
        "test": {
            "images": 450, "loss": 300.0, "reconstruction": 250.0, "kl": 50.0, "psnr": psnr,
            "active_units": 256, "ssim": 0.75, "ms_ssim": None,
            "kl_per_unit": {"smallest": 0.125, "median": 0.25, "largest": 1.5},
            "sigma": 0.125, "distortion": 250.0, "rate_under_prior": 40.0,
            "mismatch_to_normal": None, "codes_log_likelihood": -80.0,
            "codes_log_likelihood_under_prior": -70.0, "elbo_bits_per_dimension": 8.5,
            "elbo_bits_per_dimension_under_prior": 8.25,
        },
        "samples": {
            "frechet_distance": 3.5, "frechet_distance_floor": 0.25, "precision": 0.5,
            "precision_floor": 0.75, "recall": 0.125, "recall_floor": 0.75,
            "fid": None, "fid_floor": None,
            "swd": {"96": 150.0, "mean": 150.0}, "swd_floor": {"96": 15.0, "mean": 15.0},
            "swd_real_normalization": {"mean": None},
            "swd_real_normalization_floor": {"mean": None},
            "sharpness": psnr / 81, "sharpness_floor": 1.0, "diversity": 0.5,
            "diversity_of_real": 0.25,
        },
        "cost": {
            "machine": {"device": "a device", "onednn": "on", "keras": "3.15.1"}, "batch_size": 128,
            "images_per_second": 160.0, "images_per_second_lower_quartile": 150.0,
            "images_per_second_upper_quartile": 170.0, "peak_memory_mib": memory,
            "images_per_second_double_batch": double,
        },
    }  # fmt: skip
