"""The declaration of one weight, and the whole program made of it."""
