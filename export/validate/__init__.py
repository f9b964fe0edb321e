"""The checks of an export: every file and whole documents against PyTorch."""
