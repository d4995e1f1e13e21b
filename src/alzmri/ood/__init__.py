"""Out-of-distribution (OOD) detection: is an image like those that the model was trained on?"""
