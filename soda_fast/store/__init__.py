"""Images as bytes: what is readable; stores of tar shards and their index. Without torch: workers start fast."""
