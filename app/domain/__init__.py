"""The words of the service: pure values and rules that every room imports and that import none.

Nothing here does I/O, reads a clock or knows a framework; pydantic is allowed because requests and registry entries
cross the JSON border as they are.
"""
