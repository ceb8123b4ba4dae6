"""Networks and objectives only: tensors in, tensors out, no I/O."""
