"""A CDNA3/CDNA4 machine: code objects, decoder, waves, memory, slicing, timing. Knows nothing of MLA."""
