"""Small programs to begin with, each run by a test: see README.md beside this file."""
