"""Child processes: started, fed, held to their limits, ended with all that they started, and how they came to their end.

Knows no case, no device and no framework; what runs in a child is named by its command or by a service's name.
"""
