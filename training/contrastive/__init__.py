"""The contrastive model: its data, its checkpoints, its use."""
