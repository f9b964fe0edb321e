"""Child processes of an export: progress, locks, and digests of finished work."""
