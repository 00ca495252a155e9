"""Any revision of AITER as a host: what of its host side is Python is executed from its own text. Knows no device, no check."""
