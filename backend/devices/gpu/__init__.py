"""What runs inside a child process on a GPU: values, guarded memory, our kernels, the reference, the workers.

This room imports torch and triton at the top and is imported only by child processes (and by what compiles kernels).
"""
