"""The connections of one client, one after the other."""
