"""The exported graphs: how a component is traced, its precision and its cache layout."""
