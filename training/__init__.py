"""PyTorch: models, training, sampling and evaluation, started as programs."""
