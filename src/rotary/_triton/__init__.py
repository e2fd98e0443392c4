"""The host part that all Triton kernels of this library share: launching, tile sizes, tensors as (batch, heads, seq, channels)."""
