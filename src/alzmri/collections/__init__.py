"""`alzmri data`: import, check and audit collections of images."""
