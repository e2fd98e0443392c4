"""Operators registered with torch: the rotation, norm and rotation, the write into a cache. Imported from its files."""
