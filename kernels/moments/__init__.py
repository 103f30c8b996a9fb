"""Second moments of gradients and of layer data, and their inverse roots."""
