"""A GPU that isn't there: real Python of aiter, sglang and vLLM on torch "cuda" tensors that live on the CPU."""
