"""Where images lie: folders, lists, shards, buckets, memory."""
