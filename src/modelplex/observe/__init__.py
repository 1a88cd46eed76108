"""What is seen from outside of what happens inside."""
