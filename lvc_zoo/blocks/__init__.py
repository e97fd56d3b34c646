"""Building blocks of learned video codecs: nn.Modules, tensors in and out."""
