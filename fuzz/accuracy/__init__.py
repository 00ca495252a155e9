"""How far results are from right: kernels against float64 attention, a served model against GSM8K."""
