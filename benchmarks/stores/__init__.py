"""How fast models come: from a store to the disk, from the disk into memory, and how much memory replicas share."""
