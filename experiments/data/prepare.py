"""Rules that prepare captioned pictures for training.

    glide data prepare --config=experiments/data/prepare.py \\
        --config.data.sources=webdataset:raw --output=runs/prepared
"""

from ml_collections import ConfigDict

from glide_jax.config import preparation


def get_config() -> ConfigDict:
    """The defaults of glide_jax/config/preparation.py, all of which can be changed."""
    return preparation.to_config_dict(preparation.PrepareConfig())
