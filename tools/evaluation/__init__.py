"""What is measured in videos of the small world, whoever made them, and how the variants of the sampler are compared."""
