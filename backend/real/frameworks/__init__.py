"""Real backend files as policies: sglang's and vLLM's own source, executed as shipped on a GPU that isn't there."""
