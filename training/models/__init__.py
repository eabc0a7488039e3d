"""The models: dVAE, attention masks, transformer."""
