"""Rows to calibrate and to judge a model with: from files, pictures, a function, or made up."""
