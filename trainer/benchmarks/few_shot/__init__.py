"""In-context examples: training samples with their answers, which stand before what is asked (paper, Table 10)."""
