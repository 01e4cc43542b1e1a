"""Reading CUHK03 and other person re-identification data sets, batches and transforms."""
