"""Pure values and rules that every package imports and that import none.

Nothing here does I/O, reads a clock or knows a framework; pydantic is allowed because requests and registry entries
cross the JSON border as they are.
"""
