"""A PyTorch model zoo for learned video compression."""

__version__ = "0.1.0"
