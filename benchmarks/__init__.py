"""Figures that README quotes; each comparison is measured side by side in one run. `make benchmark` runs them."""
