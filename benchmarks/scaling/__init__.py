"""More GPUs: what they give, measured, and what more of them would, from bytes and links."""
