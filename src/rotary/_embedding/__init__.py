"""The parts of RotaryEmbedding: builders, rotate_qkv, rerotate, and its calls for DTensors. Imported from its files."""
