"""The configurations of the models; apart from them, so that reading one does not load torch."""

import msgspec


class TabularConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Size, optimisation and class balance of one model."""

    hidden: tuple[int, ...] = (128, 128, 64)
    dropout: float = 0.1
    batch_rows: int = 512
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    # Rare positives weigh at most this much: the full ratio (often above 100) makes the loss follow
    # a handful of rows and costs ranking quality.
    max_positive_weight: float = 10.0
    # A column whose standardised third moment on the training rows is above this is compressed
    # with a signed logarithm before it is standardised.
    log_above_skew: float = 2.0
    # Standardised inputs beyond this many deviations carry no more than the bound itself.
    clip_deviations: float = 8.0
