"""How fast: benchmarks of named workloads with the real models' shapes. `pytest bench/` runs them."""
