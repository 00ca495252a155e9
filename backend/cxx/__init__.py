"""A reader of C++: from a file's text to Python that computes the same, by lowering what is asked for and nothing else.

Knows nothing of AITER. preprocess.py expands macros, syntax.py finds declarations, the lowerings write Python: host
functions as plain Python (host.py), GPU kernels as loops over a wave's lanes that numba compiles (kernel.py). What is not
provided for ends in a CxxError that names file, line and construct, never in a guess.
"""
