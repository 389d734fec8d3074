"""What the model is - layers, shapes, coupled channels, fused kernels."""
