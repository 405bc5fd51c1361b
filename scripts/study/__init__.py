"""The study in this repository: published numbers, figures and the pages generated from them."""
