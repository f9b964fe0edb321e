"""What is exported: one file for each component, which declares everything that is asked of it.

To add one, write its file and list its `SPEC` in `all.py`.
"""
