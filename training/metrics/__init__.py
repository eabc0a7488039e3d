"""How good pictures are: features, distances between sets of pictures, and curves of them."""
