"""Published benchmarks: their files, the questions asked, the official scores, and the paper's figures beside them."""
