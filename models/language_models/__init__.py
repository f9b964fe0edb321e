"""Language models of transformers as hosts of MMFS: one file for each family, against `interface.py`."""
