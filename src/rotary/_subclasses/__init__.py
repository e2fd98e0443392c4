"""Tensor subclasses, by the plain tensors that they hold: nested jagged tensors, and DTensors. Imported from its files."""
