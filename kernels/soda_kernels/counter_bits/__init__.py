"""Counter-based random words: Philox4x32-10 in one launch, where plain operations are a hundred."""

from soda_kernels.counter_bits.launch import counter_bits

__all__ = ["counter_bits"]
