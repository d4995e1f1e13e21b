"""alzmri: four stages of Alzheimer's disease from 2D brain MRI slices, honestly scored."""

__version__ = "0.1.0"
