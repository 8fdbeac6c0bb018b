"""Rows of fine-tuning data sets, in the forms in which they are published."""
