"""Colour and geometric views of batches of tensors, on the device the batch is on."""
