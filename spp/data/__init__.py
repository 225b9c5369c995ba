"""Databases, images, transforms and read-ahead: everything that turns files into batches."""
