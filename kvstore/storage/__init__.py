"""What a node keeps on disk: names and keys, records, and the engine that stores them."""
