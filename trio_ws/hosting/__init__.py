"""Applications under servers that are not ours."""
