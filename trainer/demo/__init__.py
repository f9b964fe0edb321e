"""`python -m trainer.demo`: its stages, and the page that shows what came of them."""
