"""What is learned of kernels and devices by running cases on them: a table of traits, a self test, silicon beside the model."""
