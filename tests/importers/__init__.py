"""What is brought along from other tools."""
