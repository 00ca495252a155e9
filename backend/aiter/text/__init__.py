"""AITER's own C++ as the rule of a revision: which files and functions, and what they find around them."""
