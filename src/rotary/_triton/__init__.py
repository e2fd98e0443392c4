"""What every Triton kernel of this library shares, on the host: launching, tile sizes, tensors seen as (batch, heads, seq, channels)."""
