"""What a case runs through: serving policies, AITER's host side, devices and checks. Imports neither `fuzz` nor `reprod`."""
