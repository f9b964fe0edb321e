"""Child processes of an export: progress, locks and the digests that say what was done."""
