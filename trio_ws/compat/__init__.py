"""Other libraries' interfaces on this engine: programs move here by changing an import."""
