"""This repository's own study: its published numbers, its figures and the pages made of them."""
