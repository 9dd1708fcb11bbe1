"""What networks are made of: arrays that train, layers, the order of layers, and what is found about them."""
