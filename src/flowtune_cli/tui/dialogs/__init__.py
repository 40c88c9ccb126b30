"""What asks for something, and goes away."""
