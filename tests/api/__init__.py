"""The door for programs: the real application on a real socket, beside SQLite, asked with httpx."""
