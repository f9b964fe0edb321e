"""The command line and YAML files of a run."""
