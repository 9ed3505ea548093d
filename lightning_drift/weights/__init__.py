"""Files of tensors: reading and writing them, the names in them, and the hub they come from."""
