"""Where real documents come from: files of many formats, indexed once, then read one sample at a time by number."""
