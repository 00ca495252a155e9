"""Who decides: the rules of sglang and vLLM, and a policy of the user's own."""
