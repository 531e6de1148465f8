"""From a folder of pictures to what a step takes: scanning, buckets and captions free of torch, the rest with it."""
