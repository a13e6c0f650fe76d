"""Where images lie: folders, shards, buckets, memory; and how they are packed."""
