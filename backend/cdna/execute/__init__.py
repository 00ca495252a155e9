"""The compiled part of the machine: numba functions over raw memory, one module for each unit of the hardware.

Every handler has one signature, `handler(wave, record, context)`: three addresses, of the wave's block of registers, of
the instruction's record and of the run's context (backend/cdna/execute/layout.py says what lies where). That keeps calls cheap
(an array argument costs seven words) and lets the loop call a handler through the address in the record.
"""
