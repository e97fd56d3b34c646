"""Published models, one paper in one file."""
