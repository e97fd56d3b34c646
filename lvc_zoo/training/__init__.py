"""Training of the models with Lightning."""
