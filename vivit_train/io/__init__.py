"""What is read, written and shown: files that are whole, strangers' files, the terminal."""
