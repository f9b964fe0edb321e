"""The components that are exported: one file for each, which declares its inputs, outputs, tolerances and profiles.

To add one, write its file and list its `SPEC` in `all.py`.
"""
