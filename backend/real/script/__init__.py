"""A stranger's script on a GPU that isn't there: real aiter Python, real tensors, and what hardware would say."""
