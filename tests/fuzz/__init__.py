"""Random command lines and damaged files, each met by a real process in its own folder."""
