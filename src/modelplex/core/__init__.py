"""What Modelplex decides, as plain classes: no asyncio, no I/O, no clock, no randomness, no logging.

A shell tells a machine what happened and when; the machine answers with what to do, and has already booked it.
"""
