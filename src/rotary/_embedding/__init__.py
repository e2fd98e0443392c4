"""The parts of RotaryEmbedding: builders, frequencies, rotate_qkv, rerotate, and its calls for DTensors. Imported from its files."""
